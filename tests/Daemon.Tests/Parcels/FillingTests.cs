using System.Buffers.Binary;
using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Daemon.Tests.Moves;
using static Godwit.Daemon.Tests.Parcels.ParcelTests;

namespace Godwit.Daemon.Tests.Parcels;

/// <summary>A guest that runs before all of its memory has come, and what may happen meanwhile.</summary>
/// <remarks>
/// A page of the noise that the guest looks at before each count is damaged in the store: without it the guest cannot
/// count, and it is being filled for as long as the test wishes.
/// </remarks>
public sealed class FillingTests
{
    // In the middle of the noise.
    private const int NoiseFirst = 0x100000;
    private const int Damaged = 0x280000;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    // Goal: a restart of the daemon, planned or not, takes nothing back of what the guest has done since it runs.
    [Theory]
    [InlineData(Processes.Terminate)]
    [InlineData(Processes.Killed)]
    public async Task A_guest_that_is_being_filled_outlives_its_daemon(int signal)
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        var repair = Damage(pair);
        var resumed = await ResumeLazilyAsync(pair);
        await pair.B.SaysAsync("waits for memory that the store does not give");
        await pair.B.EndAsync(signal);
        await pair.RestartBAsync();
        await Wait.UntilAsync(
            async () => await pair.GuestAtAsync(pair.B) is { State: GuestState.Running },
            "its QEMU, which may be busy, has answered the new daemon");
        await pair.B.SaysAsync("which are brought now");
        await pair.B.SaysAsync("waits for memory that the store does not give");

        repair();
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        await IsFilledAsync(pair);
        Assert.Equal(resumed.ProcessId, (await pair.GuestAtAsync(pair.B))!.ProcessId);
        IsUnbroken(pair);
        // It is a guest like any other afterwards.
        await SuspendAsync(pair.B, pair);
        await ResumeAsync(pair.A, pair);
        await CountingGuest.CountsOnAsync(pair.A, pair.Guest);
        IsUnbroken(pair);
    }

    // Goal: the store need not be there when the daemon comes back.
    [Fact]
    public async Task A_guest_that_is_being_filled_waits_for_its_store_over_a_restart()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        var repair = Damage(pair);
        var resumed = await ResumeLazilyAsync(pair);
        await pair.B.EndAsync(Processes.Terminate);
        repair();
        Directory.Move(StorePath(pair), StorePath(pair) + "-gone");
        await pair.RestartBAsync();
        await pair.B.SaysAsync("memory that cannot be brought yet");
        Directory.Move(StorePath(pair) + "-gone", StorePath(pair));
        await IsFilledAsync(pair);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        Assert.Equal(resumed.ProcessId, (await pair.GuestAtAsync(pair.B))!.ProcessId);
        IsUnbroken(pair);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_guest_that_is_being_filled_can_be_switched_off(bool afterRestart)
    {
        await using var pair = await StartAsync();
        var parcel = await SuspendAsync(pair.A, pair);
        var repair = Damage(pair);
        var resumed = await ResumeLazilyAsync(pair);
        if (afterRestart)
        {
            await pair.B.EndAsync(Processes.Killed);
            await pair.RestartBAsync();
        }

        await Refusals.RefusedAsync("guest-state", async () => await pair.B.Control.StopGuestAsync(
            new StopGuestRequest { Name = pair.Program.Name }, cancellationToken: Token));
        var stopped = await pair.B.Control.StopGuestAsync(
            new StopGuestRequest { Name = pair.Program.Name, Force = true }, cancellationToken: Token);
        Assert.Equal(GuestState.Stopped, stopped.State);
        Assert.Contains("what it held in memory since it was resumed is lost", stopped.Detail,
            StringComparison.Ordinal);
        Assert.False(Processes.Runs(resumed.ProcessId));

        // And it goes back to its parcel, or on from its disks.
        var before = CountingGuest.Console(pair.B, pair.Guest);
        repair();
        var back = await pair.B.Control.ResumeGuestAsync(
            new ResumeGuestRequest { Reference = parcel.Id, Mode = ResumeMode.Rollback }, cancellationToken: Token);
        Assert.Equal(GuestState.Running, back.Guest.State);
        await CountingGuest.CountsOnAsync(pair.B, pair.Guest);
        var atA = CountingGuest.Console(pair.A, pair.Guest);
        CountingGuest.IsUnbroken(atA + before);
        CountingGuest.IsUnbroken(atA + CountingGuest.Console(pair.B, pair.Guest)[before.Length..]);
    }

    // Goal: what it wrote to its disks since it runs is not taken back without a word.
    [Fact]
    public async Task A_guest_whose_QEMU_ended_with_its_daemon_keeps_its_disks()
    {
        await using var pair = await StartAsync();
        await SuspendAsync(pair.A, pair);
        Damage(pair);
        var resumed = await ResumeLazilyAsync(pair);
        await pair.B.EndAsync(Processes.Killed);
        Processes.Signal(resumed.ProcessId, Processes.Killed);
        await Wait.UntilAsync(() => !Processes.Runs(resumed.ProcessId), "QEMU has ended");
        await pair.RestartBAsync();
        var failed = (await pair.GuestAtAsync(pair.B))!;
        Assert.Equal(GuestState.Failed, failed.State);
        Assert.Contains("its disks are as it left them", failed.Detail, StringComparison.Ordinal);
    }

    internal static async Task<Guest> ResumeLazilyAsync(MovePair pair) => (await pair.B.Control.ResumeGuestAsync(
        new ResumeGuestRequest { Reference = pair.Program.Name, Lazy = true }, cancellationToken: Token)).Guest;

    /// <summary>Damages a page of the guest's noise in the store.</summary>
    /// <returns>Repairs it.</returns>
    internal static Action Damage(MovePair pair)
    {
        var noise = new byte[64];
        var x = 1u;
        for (var at = NoiseFirst; at < Damaged + noise.Length; at += sizeof(uint))
        {
            x = (x * 1664525) + 1013904223;
            if (at >= Damaged)
            {
                BinaryPrimitives.WriteUInt32LittleEndian(noise.AsSpan(at - Damaged), x);
            }
        }

        foreach (var pack in Directory.EnumerateFiles(
            Path.Combine(StorePath(pair), "packs"), "*", SearchOption.AllDirectories))
        {
            var content = File.ReadAllBytes(pack);
            var found = content.AsSpan().IndexOf(noise);
            if (found < 0)
            {
                continue;
            }

            content[found] ^= 1;
            File.WriteAllBytes(pack, content);
            content[found] ^= 1;
            return () => File.WriteAllBytes(pack, content);
        }

        throw new InvalidOperationException("The noise is in no pack as it is.");
    }

    internal static Task IsFilledAsync(MovePair pair) => Wait.UntilAsync(
        async () => await pair.GuestAtAsync(pair.B) is { MigrationId: "", State: GuestState.Running },
        "all of its memory is there");
}
