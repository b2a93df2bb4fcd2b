using System.CommandLine;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit host ...</c>: the hosts of the cluster, and how one gets in and out.</summary>
internal static class HostCommands
{
    public static Command Build(GodwitCommand godwit) => godwit.Noun(
        "host", "Hosts: list, look at, invite, join, remove.",
        ["godwit host list", "godwit host invite b", "godwit host join TOKEN", "godwit host remove b"],
        [List(godwit), Show(godwit), Invite(godwit), Join(godwit), Remove(godwit)]);

    private static Command List(GodwitCommand godwit) => godwit.Verb(
        "list", "List the hosts of the cluster.", ["godwit host list", "godwit host list -o wide"], [],
        async (session, cancellation) =>
        {
            var answer = await session.Client.AskAsync(
                (daemon, options) => daemon.ListHostsAsync(new ListHostsRequest(), options), cancellation);
            session.Answer(HostAnswers.List([.. answer.Hosts.OrderBy(host => host.Name, StringComparer.Ordinal)]));
            return 0;
        });

    private static Command Show(GodwitCommand godwit)
    {
        var name = new Argument<string>("HOST") { Description = "The host's name." };
        return godwit.Verb(
            "show", "Show everything about a host.", ["godwit host show b", "godwit host show b -o yaml"], [name],
            async (session, cancellation) =>
            {
                var request = new HostRequest { Name = session.Get(name) };
                session.Answer(HostAnswers.Show(await session.Client.AskAsync(
                    (daemon, options) => daemon.GetHostAsync(request, options), cancellation)));
                return 0;
            });
    }

    private static Command Invite(GodwitCommand godwit)
    {
        var name = new Argument<string>("NEW-HOST") { Description = "The name under which the new host will join." };
        var valid = Option.Milliseconds("--valid", "How long the token can be used (default: 1h).");
        return godwit.Verb(
            "invite", "Print a one-time token with which a host may join.",
            ["godwit host invite b", "godwit host invite b --valid 10m"], [name, valid],
            async (session, cancellation) =>
            {
                uint seconds = session.Get(valid) is > 0 and var given ? GuestCommands.WholeSeconds(given) : 3600;
                var request = new CreateJoinTokenRequest { Host = session.Get(name), ValidSeconds = seconds };
                var token = await session.Client.AskAsync(
                    (daemon, options) => daemon.CreateJoinTokenAsync(request, options), cancellation);
                session.Answer(HostAnswers.Invitation(token));
                session.Note(
                    $"On {request.Host}: 'godwit host join TOKEN'. It works once, until "
                    + $"{Json.LocalTime(token.ExpiresUnixMs)}; whoever has it can join.");
                return 0;
            });
    }

    private static Command Join(GodwitCommand godwit)
    {
        var token = new Argument<string>("TOKEN")
        {
            Description = "The token that 'godwit host invite' printed; '-' reads it from standard input.",
        };
        var address = Option.Text("--address", "Where to join, if not where the token says.", "HOST:PORT");
        return godwit.Verb(
            "join", "Let this host join the cluster that a token names.",
            ["godwit host join TOKEN", "ssh a godwit host invite b | godwit host join -"], [token, address],
            async (session, cancellation) =>
            {
                string secret = session.Get(token);
                if (secret == "-")
                {
                    secret = session.Terminal.ReadLine()?.Trim() ?? "";
                }

                if (secret.Length == 0)
                {
                    throw new CommandException("usage", "standard input held no token.");
                }

                var request = new JoinClusterRequest { Token = secret, Address = session.Get(address) ?? "" };
                session.Answer(HostAnswers.Joined(await session.Client.AskAsync(
                    (daemon, options) => daemon.JoinClusterAsync(request, options), cancellation)));
                return 0;
            });
    }

    private static Command Remove(GodwitCommand godwit)
    {
        var name = new Argument<string>("HOST") { Description = "The host's name." };
        return godwit.Verb(
            "remove", "Take a host out of the cluster; its certificates are refused from now on.",
            ["godwit host remove b"], [name],
            async (session, cancellation) =>
            {
                var request = new HostRequest { Name = session.Get(name) };
                var answer = await session.Client.AskAsync(
                    (daemon, options) => daemon.RemoveHostAsync(request, options), cancellation);
                session.Answer(HostAnswers.Removed(request.Name, answer.NotTold));
                foreach (string member in answer.NotTold)
                {
                    session.Note(
                        $"{member} was not reached: it trusts {request.Name} until it asks this host again, as it does "
                        + "at its start and every five minutes.");
                }

                return 0;
            });
    }
}
