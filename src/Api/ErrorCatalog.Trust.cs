namespace Godwit.Api;

/// <summary>Who may talk to whom, and how hosts join.</summary>
public static partial class ErrorCatalog
{
    private static void AddTrust(AddEntry add)
    {
        const string NewToken = "Make a new token with 'godwit host invite NAME' on the host that holds the CA key.";
        add("key-mode", ExitCodes.Authentication,
            "A private key's file can be read by others than its owner, so the key may be known to them.",
            "If nobody can have read it: chmod 600 FILE. Otherwise remove it and join again, which makes a new one.");
        add("key-broken", ExitCodes.Authentication,
            "A private key's file holds no key.",
            "Restore it from a backup, or remove the pki directory and join the cluster again.");
        add("certificate-broken", ExitCodes.Authentication,
            "A certificate is damaged, or was not made for this host's key or name.",
            "Restore it from a backup, or join the cluster again.");
        add("certificate-missing", ExitCodes.Authentication,
            "The caller presented no certificate. Hosts prove who they are to each other; only joining needs none.",
            "Join the host to the cluster: 'godwit host join TOKEN'.");
        add("certificate-foreign", ExitCodes.Authentication,
            "A certificate does not chain to this cluster's authority: "
            + "the host belongs to another cluster, or is no host.",
            "If it is to be a member, join it with a token of this cluster.");
        add("certificate-expired", ExitCodes.Authentication,
            "A host's certificate is not valid at this time: it has expired, or a clock is wrong.",
            "Compare the clocks of both hosts; "
            + "then renew the certificate by joining again with a token for this host.");
        add("certificate-revoked", ExitCodes.Authentication,
            "The host was removed from the cluster after its certificate had been issued.",
            "If it is to be a member again: 'godwit host invite NAME' on the CA host, then 'godwit host join TOKEN' on "
            + "the host.");
        add("certificate-expires-soon", ExitCodes.Ok,
            "A host's certificate expires within 30 days.",
            "Renew it: 'godwit host invite NAME' on the CA host, then 'godwit host join TOKEN' on the host.");
        add("certificate-host-mismatch", ExitCodes.Authentication,
            "A host claims a name that its certificate does not bind.",
            "Set hostName to the name under which the host joined, or join it again.");
        add("certificate-request", ExitCodes.Authentication,
            "A joiner's certificate request is malformed, has a false signature or not the right kind of key.",
            "Use the same version of godwitd on both hosts.");
        add("plaintext-refused", ExitCodes.Authentication,
            "Something spoke to the peer port without TLS; nothing of it was read. This is seen in the log only.",
            "Find what connects there; godwitd itself always uses TLS 1.3.");
        add("control-local-only", ExitCodes.Authentication,
            "Control is served on the host's own Unix socket only: a member may not command another member's guests.",
            "Log in on the host and run godwit there.");
        add("viewer-only", ExitCodes.Authentication,
            "A viewer, who came through the viewers' socket, may look at everything and change nothing.",
            "Ask an operator of this host: root, or a member of the group that controlGroup names.");
        add("peer-remote-only", ExitCodes.Authentication,
            "The Peer service is served over mutual TLS only.", "Operators use the commands of godwit.");
        add("token-malformed", ExitCodes.Usage,
            "The join token is incomplete or damaged.", "Copy the whole line as 'godwit host invite' printed it.");
        add("token-unknown", ExitCodes.Authentication,
            "The join token was never made by this cluster.", NewToken);
        add("token-expired", ExitCodes.Authentication,
            "The join token was not used in time.", NewToken);
        add("token-used", ExitCodes.Authentication,
            "The join token has been used already; it admits one host once.",
            NewToken + " If it was not you who used it, look at 'godwit host list'.");
        add("token-host-mismatch", ExitCodes.Authentication,
            "The join token was made for a host of another name.", NewToken);
        add("token-lifetime", ExitCodes.Usage,
            "A join token may be valid for seven days at most.", "Make it when it is needed.");
        add("authority-mismatch", ExitCodes.Authentication,
            "The host that answered belongs to another cluster than the token names. Nothing secret was sent to it.",
            "Check the address. If it is right, somebody may be in between: make a new token and look at the network.");
        add("authority-absent", ExitCodes.Refused,
            "This needs the cluster's CA key, which another host holds.",
            "Run the command on the host that 'godwit host list' shows as holding it.");
        add("cluster-joined", ExitCodes.Refused,
            "The host is a member of a cluster with others already; a host is in one cluster.",
            "To leave it, stop godwitd and remove its pki directory and registry.");
        add("join-malformed", ExitCodes.Usage,
            "The joiner's host name or address is not valid.", "Set hostName and address on the joining host.");
        add("host-exists", ExitCodes.Refused,
            "A host of this name is a member already.",
            "Give the joiner another hostName; or, if it takes that member's place, remove the member first: "
            + "'godwit host remove NAME' on the CA host, then 'godwit host invite NAME'.");
        add("host-holds-ca", ExitCodes.Refused,
            "The host that holds the CA key cannot be removed: nobody could be admitted or removed any more.",
            "Remove the other hosts instead.");
        add("host-unreachable", ExitCodes.Failed,
            "A host does not answer. Guests on it are not affected by that.",
            "Check that godwitd runs there and that its address and port can be reached from here.");
        add("host-self", ExitCodes.Refused,
            "The guest is on that host already.", "Name another host: 'godwit host list'.");
    }
}
