using System.CommandLine;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary>Stores of parcels, under <c>godwit store</c>.</summary>
internal static class ParcelStoreCommands
{
    private static readonly TimeSpan Within = TimeSpan.FromHours(6);

    public static IEnumerable<Command> Build(GodwitCommand godwit) =>
    [
        Create(godwit), Stats(godwit), Forget(godwit), Collect(godwit), Copy(godwit), Look(godwit, contents: false),
        Look(godwit, contents: true),
    ];

    private static Argument<string> NameArgument() => new("STORE") { Description = "The store's name on this host." };

    private static Command Create(GodwitCommand godwit)
    {
        var name = NameArgument();
        var at = Option.Text(
            "--at", "A directory, on a file system that the hosts share or on this host; or s3://BUCKET/PREFIX.",
            "PATH");
        at.Required = true;
        var key = Option.Text(
            "--key-file", "Encrypt it under the key in this file, which is made if the store is new.", "PATH");
        var quota = Option.Bytes("--quota", "What this host may let it grow to (default: no limit).");
        var coding = Option.Among(
            "--coding", "lz4 for fast storage, zstd for slow links.", ["lz4", "zstd"], "lz4");
        var endpoint = Option.Text("--endpoint", "The object store's address, if it is not AWS's.", "URL");
        var region = Option.Text("--region", "The bucket's region (default: as AWS's tools find it).", "NAME");
        var credentials = Option.Text(
            "--credentials-file",
            "The bucket's keys, under [default] in AWS's format, mode 0600 (default: where AWS's tools look).", "PATH");
        return godwit.Verb(
            "create", "Make an empty place a store, or make a store that is there known to this host.",
            [
                "godwit store create office --at /mnt/office/godwit",
                "godwit store create cloud --at s3://backups/godwit --endpoint https://s3.example.org "
                    + "--credentials-file /etc/godwit/s3.credentials",
                "godwit store create usb --at /media/usb/godwit --key-file /etc/godwit/usb.key --coding zstd",
            ],
            [name, at, key, quota, coding, endpoint, region, credentials],
            async (session, cancellation) =>
            {
                var request = new StoreSpec
                {
                    Name = session.Get(name), Location = session.Get(at), KeyFile = session.Get(key) ?? "",
                    QuotaBytes = session.Get(quota), Coding = session.Get(coding),
                    Endpoint = session.Get(endpoint) ?? "", Region = session.Get(region) ?? "",
                    CredentialsFile = session.Get(credentials) ?? "",
                };
                session.Answer(ParcelStoreAnswers.Made(await session.Client.AskAsync(
                    (daemon, options) => daemon.CreateStoreAsync(request, options), cancellation)));
                return 0;
            });
    }

    private static Command Stats(GodwitCommand godwit) => godwit.Verb(
        "stats", "List the stores of this host and what they hold.",
        ["godwit store stats", "godwit store stats -o json"], [],
        async (session, cancellation) =>
        {
            var answer = await session.Client.AskAsync(
                (daemon, options) => daemon.ListStoresAsync(new ListStoresRequest(), options), cancellation);
            session.Answer(ParcelStoreAnswers.List(answer.Stores));
            return 0;
        });

    private static Command Forget(GodwitCommand godwit)
    {
        var name = NameArgument();
        return godwit.Verb(
            "forget", "Make this host forget a store; nothing in it is touched.", ["godwit store forget office"],
            [name],
            async (session, cancellation) =>
            {
                var request = new StoreRequest { Name = session.Get(name) };
                await session.Client.AskAsync(
                    (daemon, options) => daemon.ForgetStoreAsync(request, options), cancellation);
                session.Answer(ParcelStoreAnswers.Forgotten(request.Name));
                return 0;
            });
    }

    private static Command Collect(GodwitCommand godwit)
    {
        var name = NameArgument();
        return godwit.Verb(
            "gc", "Remove what no parcel needs, while other hosts go on using the store.", ["godwit store gc office"],
            [name],
            async (session, cancellation) =>
            {
                var request = new StoreRequest { Name = session.Get(name) };
                session.Answer(ParcelStoreAnswers.Collected(await session.Client.AskAsync(
                    (daemon, options) => daemon.CollectStoreAsync(request, options), cancellation, Within)));
                return 0;
            });
    }

    private static Command Copy(GodwitCommand godwit)
    {
        var from = new Argument<string>("FROM") { Description = "The store to copy from." };
        var to = new Argument<string>("TO") { Description = "The store to copy to." };
        var parcel = Option.Text("--parcel", "Only this one: its id, or a guest for its newest.", "REF");
        return godwit.Verb(
            "copy", "Copy parcels to another store, and of each only what is not there.",
            ["godwit store copy office home", "godwit store copy office home --parcel web1"], [from, to, parcel],
            async (session, cancellation) =>
            {
                var request = new CopyParcelsRequest
                {
                    From = session.Get(from), To = session.Get(to), Reference = session.Get(parcel) ?? "",
                };
                session.Answer(ParcelStoreAnswers.Copied(await session.Client.AskAsync(
                    (daemon, options) => daemon.CopyParcelsAsync(request, options), cancellation, Within)));
                return 0;
            });
    }

    private static Command Look(GodwitCommand godwit, bool contents)
    {
        var name = NameArgument();
        var from = Option.Text("--repair-from", "Bring what is lost from this other store.", "STORE");
        return godwit.Verb(
            contents ? "verify" : "check",
            contents ? "Read every chunk that a parcel needs and name it again; repair what is damaged. "
                    + "Exit code 1 if something stays lost."
                : "See that every chunk that a parcel needs is listed. Exit code 1 if something is wrong.",
            contents ? ["godwit store verify office", "godwit store verify office --repair-from usb"]
                : ["godwit store check office"],
            [name, from],
            async (session, cancellation) =>
            {
                var request = new VerifyStoreRequest
                {
                    Name = session.Get(name), Contents = contents, RepairFrom = session.Get(from) ?? "",
                };
                var answer = await session.Client.AskAsync(
                    (daemon, options) => daemon.VerifyStoreAsync(request, options), cancellation, Within);
                session.Answer(ParcelStoreAnswers.Verified(answer));
                return answer.Lost > 0 || answer.Unrepaired > 0 ? 1 : 0;
            });
    }
}
