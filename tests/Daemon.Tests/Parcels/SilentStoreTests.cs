using System.Diagnostics;
using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using Grpc.Core;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>A store that does not answer at all: who reads there never comes back.</summary>
/// <remarks>
/// A pipe takes the place of the note of the suspend's session. The daemon reads that note when the guest stands still
/// and all is ready for the manifest, and waits for as long as nobody writes to the pipe.
/// </remarks>
public sealed class SilentStoreTests
{
    // A busy disk may take seconds for a word, and is not silent.
    private const int SilenceSeconds = 10;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_store_that_says_nothing_does_not_hold_the_guest(bool keepRunning)
    {
        await using var pair = await MovePair.StartAsync(
            a: settings => settings with { StoreSilenceSeconds = SilenceSeconds });
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
        // The suspend has its session before it asks QEMU for anything, and waits for the answer until there is a pipe.
        Processes.Signal(pair.Guest.ProcessId, Processes.Stopped);
        var suspend = pair.A.Control.SuspendGuestAsync(
            new SuspendGuestRequest { Guest = pair.Program.Name, KeepRunning = keepRunning },
            cancellationToken: Token).ResponseAsync;
        var (pipe, note) = await BlockAsync(pair);
        Processes.Signal(pair.Guest.ProcessId, Processes.Continued);
        var said = await Refusals.RefusedAsync("store-silent", () => suspend);
        Assert.Contains("runs on a", said, StringComparison.Ordinal);
        // While the store still says nothing.
        await pair.IsUntouchedAsync();

        await using (var writer = new FileStream(pipe, FileMode.Open, FileAccess.Write))
        {
            await writer.WriteAsync(note, Token);
        }

        // What was left behind has no say any more.
        await Task.Delay(TimeSpan.FromSeconds(1), Token);
        await pair.IsUntouchedAsync();
        var history = await pair.A.Control.ListParcelsAsync(new ListParcelsRequest(), cancellationToken: Token);
        Assert.Empty(history.Parcels);
        await SuspendAsync(pair.A, pair);
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: a host that has to go goes, also if a store holds up the word for its parcels. Method: its parcel is a pipe
    // that nobody writes to.
    [Fact]
    public async Task A_store_that_says_nothing_keeps_no_host_in_the_cluster()
    {
        await using var pair = await MovePair.StartAsync(
            a: settings => settings with { StoreSilenceSeconds = SilenceSeconds });
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = StoreName, Location = StorePath(pair) }, cancellationToken: Token);
        var parcel = Path.Combine(StorePath(pair), "parcels", Guid.NewGuid().ToString());
        Directory.CreateDirectory(parcel);
        parcel = Path.Combine(parcel, "1r0000000000");
        await File.WriteAllBytesAsync(parcel, [0], Token);
        MakePipe(parcel);
        await pair.A.Control.RemoveHostAsync(new HostRequest { Name = "b" }, cancellationToken: Token)
            .ResponseAsync.WaitAsync(TimeSpan.FromSeconds(60), Token);
        await pair.A.SaysAsync("are not vouched for in store");
        var left = await pair.A.Control.ListHostsAsync(new ListHostsRequest(), cancellationToken: Token);
        Assert.DoesNotContain(left.Hosts, host => host.Name == "b");
        await using var writer = new FileStream(parcel, FileMode.Open, FileAccess.Write);
    }

    // Goal: who gives the work up ends it, and the store is as good as before.
    [Theory]
    [InlineData("gc")]
    [InlineData("verify")]
    [InlineData("copy")]
    public async Task Work_on_a_store_ends_when_its_caller_goes(string what)
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        await pair.A.Control.CreateStoreAsync(
            new StoreSpec { Name = "copy", Location = StorePath(pair) + "-copy" }, cancellationToken: Token);
        using var caller = CancellationTokenSource.CreateLinkedTokenSource(Token);
        // What only it reads: the pack of the parcel's trees.
        var packs = Directory.EnumerateFiles(
            Path.Combine(StorePath(pair), "packs"), "*", SearchOption.AllDirectories).ToList();
        var contents = packs.Select(File.ReadAllBytes).ToList();
        packs.ForEach(MakePipe);
        Task work = what switch
        {
            "gc" => pair.A.Control.CollectStoreAsync(
                new StoreRequest { Name = StoreName }, cancellationToken: caller.Token).ResponseAsync,
            "verify" => pair.A.Control.VerifyStoreAsync(
                new VerifyStoreRequest { Name = StoreName, Contents = true },
                cancellationToken: caller.Token).ResponseAsync,
            _ => pair.A.Control.CopyParcelsAsync(
                new CopyParcelsRequest { From = StoreName, To = "copy" },
                cancellationToken: caller.Token).ResponseAsync,
        };
        await Wait.UntilAsync(() => Sessions(pair).Length > 0, "the work has begun");
        await Task.Delay(TimeSpan.FromSeconds(1), Token);
        Assert.False(work.IsCompleted);
        Assert.NotEmpty(Sessions(pair));
        await caller.CancelAsync();
        var ended = await Assert.ThrowsAsync<RpcException>(() => work);
        Assert.Equal(StatusCode.Cancelled, ended.StatusCode);
        foreach (var (pack, content) in packs.Zip(contents))
        {
            File.WriteAllBytes(pack + ".whole", content);
            // Whoever waits for the pipe reads nothing out of it, and looks then whether it is still wanted.
            using (var writer = new FileStream(pack, FileMode.Open, FileAccess.ReadWrite))
            {
                await Task.Delay(200, Token);
            }

            File.Move(pack + ".whole", pack, overwrite: true);
        }

        await Wait.UntilAsync(() => Sessions(pair).Length == 0, "the daemon has ended the work");
        var sound = await pair.A.Control.VerifyStoreAsync(
            new VerifyStoreRequest { Name = StoreName, Contents = true }, cancellationToken: Token);
        Assert.Empty(sound.Problems);
        await ResumeAsync(pair.B, pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
    }

    private static string[] Sessions(MovePair pair) =>
        Directory.GetFiles(Path.Combine(StorePath(pair), "sessions"), "*", SearchOption.AllDirectories);

    private static async Task<(string Pipe, byte[] Note)> BlockAsync(MovePair pair)
    {
        var folder = Path.Combine(StorePath(pair), "sessions");
        string? session = null;
        await Wait.UntilAsync(
            () => (session = Directory.Exists(folder) ? Directory.EnumerateFiles(folder).FirstOrDefault() : null)
                is not null, "the suspend has begun");
        var note = await File.ReadAllBytesAsync(session!, Token);
        MakePipe(session!);
        return (session!, note);
    }

    private static void MakePipe(string path)
    {
        using var make = Process.Start("mkfifo", path + ".pipe");
        make.WaitForExit();
        File.Move(path + ".pipe", path, overwrite: true);
    }
}
