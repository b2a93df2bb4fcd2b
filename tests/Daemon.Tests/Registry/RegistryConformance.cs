using CsCheck;
using Godwit.Host.Qemu;
using Godwit.Host.Registry;
using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Daemon.Tests.Registry;

/// <summary>
/// What every registry has to do. An adapter's tests derive from this and say how to open and reopen it.
/// </summary>
public abstract class RegistryConformance : IAsyncLifetime
{
    private static readonly DateTimeOffset Now = new(2026, 5, 4, 3, 2, 1, 987, TimeSpan.Zero);

    protected IRegistry Registry { get; private set; } = null!;

    protected static CancellationToken Token => TestContext.Current.CancellationToken;

    /// <summary>Opens the registry; called again after it was disposed, it has to find everything.</summary>
    protected abstract IRegistry Open();

    public virtual ValueTask InitializeAsync()
    {
        Registry = Open();
        return ValueTask.CompletedTask;
    }

    public virtual async ValueTask DisposeAsync()
    {
        await Registry.DisposeAsync();
        GC.SuppressFinalize(this);
    }

    private async Task ReopenAsync()
    {
        await Registry.DisposeAsync();
        Registry = Open();
    }

    protected static GuestRecord Guest(string name, long epoch = 1) => new(
        new MachineContract
        {
            Name = name,
            Uuid = Guid.NewGuid(),
            MemoryBytes = 64 << 20,
            Cpus = 2,
            Machine = "pc-q35-10.0",
            CpuModel = "Nehalem-v1",
            Accelerator = "tcg",
            Disks = [new DiskContract("/srv/ä b.qcow2", "qcow2", true)],
            Interfaces = [new InterfaceContract("br0", "52:54:00:01:02:03", ["10.0.0.2", "fd00::2"])],
            KernelCommandLine = "console=ttyS0",
            Video = true,
            SharedMemory = false,
        },
        "a", epoch, GuestIntent.Running, Now, Now.AddSeconds(1), "");

    private static MigrationRecord Move(string id, string guest, DateTimeOffset started) => new(
        id, Guid.NewGuid(), guest, "a", "b",
        new MigrationPolicy { DowntimeMax = TimeSpan.FromMilliseconds(70), OnStall = OnStall.Pause, RoundsMax = 9 },
        started, "b",
        new MigrationSnapshot
        {
            Phase = MigrationPhase.Ended,
            Outcome = MigrationOutcome.Completed,
            WireBytes = 12345,
            Rounds = [new RoundReport(0, 100, 200, TimeSpan.FromSeconds(1.5), 7.25, 8)],
            SavedBytes = new Dictionary<string, long> { ["zero"] = 4096 },
            Parts = BlackoutParts.None with { LastRound = TimeSpan.FromMilliseconds(1) },
            Downtime = TimeSpan.FromMilliseconds(31),
            TimeLeft = TimeSpan.Zero,
        });

    private static void Same(GuestRecord expected, GuestRecord? actual)
    {
        Assert.NotNull(actual);
        // Records compare lists by reference: the contract is compared by its parts.
        Assert.Equal(expected with { Contract = actual.Contract }, actual);
        Assert.Equivalent(expected.Contract, actual.Contract, strict: true);
    }

    [Fact]
    public async Task A_guest_is_found_again_as_it_was_after_a_restart()
    {
        var guest = Guest("g");
        await Registry.AddGuestAsync(guest, Token);
        await ReopenAsync();
        Same(guest, await Registry.FindGuestAsync(guest.Uuid, Token));
        Same(guest, Assert.Single(await Registry.ListGuestsAsync(Token)));
        Assert.Null(await Registry.FindGuestAsync(Guid.NewGuid(), Token));
    }

    [Fact]
    public async Task A_name_and_a_uuid_are_taken_once()
    {
        var guest = Guest("g");
        await Registry.AddGuestAsync(guest, Token);
        var sameName = await Assert.ThrowsAsync<GodwitException>(() => Registry.AddGuestAsync(Guest("g"), Token));
        Assert.Equal("guest-exists", sameName.Code);
        var sameUuid = guest with { Contract = guest.Contract with { Name = "h" } };
        Assert.Equal("guest-exists",
            (await Assert.ThrowsAsync<GodwitException>(() => Registry.AddGuestAsync(sameUuid, Token))).Code);
        Assert.Single(await Registry.ListGuestsAsync(Token));
    }

    [Fact]
    public async Task An_update_under_an_old_epoch_changes_nothing()
    {
        var guest = Guest("g");
        await Registry.AddGuestAsync(guest, Token);
        var given = guest with { Host = "b", Epoch = 2, Intent = GuestIntent.Stopped, Started = null, Detail = "left" };
        Assert.True(await Registry.TryUpdateGuestAsync(given, 1, Token));
        Assert.False(await Registry.TryUpdateGuestAsync(guest with { Detail = "late" }, 1, Token));
        await ReopenAsync();
        Same(given, await Registry.FindGuestAsync(guest.Uuid, Token));
        Assert.False(await Registry.TryUpdateGuestAsync(Guest("unknown"), 1, Token));
    }

    [Fact]
    public async Task Of_many_updates_under_one_epoch_one_wins()
    {
        var guest = Guest("g");
        await Registry.AddGuestAsync(guest, Token);
        var updates = Enumerable.Range(0, 16).Select(number => Task.Run(() => Registry.TryUpdateGuestAsync(
            guest with { Epoch = 2, Host = $"host{number}" }, 1, Token)));
        Assert.Single(await Task.WhenAll(updates), updated => updated);
    }

    [Fact]
    public async Task A_removed_guest_is_gone_and_its_name_is_free()
    {
        var guest = Guest("g");
        await Registry.AddGuestAsync(guest, Token);
        await Registry.RemoveGuestAsync(guest.Uuid, Token);
        await Registry.RemoveGuestAsync(guest.Uuid, Token);
        Assert.Empty(await Registry.ListGuestsAsync(Token));
        await Registry.AddGuestAsync(Guest("g"), Token);
    }

    [Fact]
    public async Task Hosts_are_replaced_by_name_and_listed_in_order()
    {
        await Registry.PutHostAsync(new HostRecord("b", "10.0.0.2:1", "", false), Token);
        await Registry.PutHostAsync(new HostRecord("a", "10.0.0.1:1", "ff", true), Token);
        var moved = new HostRecord("b", "10.0.0.3:1", "aa", false);
        await Registry.PutHostAsync(moved, Token);
        await ReopenAsync();
        Assert.Equal([new HostRecord("a", "10.0.0.1:1", "ff", true), moved], await Registry.ListHostsAsync(Token));
    }

    [Fact]
    public async Task A_removed_host_is_gone_revoked_and_without_tokens_in_one_step()
    {
        await Registry.PutHostAsync(new HostRecord("a", "10.0.0.1:1", "ff", true), Token);
        await Registry.PutHostAsync(new HostRecord("b", "10.0.0.2:1", "aa", false), Token);
        await Registry.AddTokenAsync(new TokenRecord("forb", "b", Now.AddMinutes(1), null), Token);
        await Registry.AddTokenAsync(new TokenRecord("usedbyb", "b", Now.AddMinutes(1), Now), Token);
        await Registry.AddTokenAsync(new TokenRecord("any", "", Now.AddMinutes(1), null), Token);
        var revocation = new RevocationRecord("cluster", "b", Now);
        await Registry.RemoveHostAsync(revocation, Token);
        // Said again, or said late, it stays as it is.
        await Registry.RemoveHostAsync(revocation with { IssuedBefore = Now.AddHours(-1) }, Token);
        await ReopenAsync();
        Assert.Equal(["a"], (await Registry.ListHostsAsync(Token)).Select(host => host.Name));
        Assert.Equal([revocation], await Registry.ListRevocationsAsync("cluster", Token));
        Assert.Empty(await Registry.ListRevocationsAsync("another", Token));
        Assert.Null(await Registry.FindTokenAsync("forb", Token));
        Assert.NotNull(await Registry.FindTokenAsync("usedbyb", Token));
        Assert.NotNull(await Registry.FindTokenAsync("any", Token));

        await Registry.PutHostAsync(new HostRecord("b", "10.0.0.2:1", "bb", false), Token);
        Assert.Equal([revocation], await Registry.ListRevocationsAsync("cluster", Token));
        await Registry.RemoveHostAsync(revocation with { IssuedBefore = Now.AddHours(1) }, Token);
        Assert.Equal(Now.AddHours(1),
            Assert.Single(await Registry.ListRevocationsAsync("cluster", Token)).IssuedBefore);
    }

    [Fact]
    public async Task Reports_are_kept_whole_newest_first_and_found_by_prefix()
    {
        var first = Move("aaa1", "g", Now);
        var second = Move("aab2", "h", Now.AddSeconds(1));
        await Registry.PutMigrationAsync(first, Token);
        await Registry.PutMigrationAsync(second, Token);
        await ReopenAsync();
        Assert.Equal(["aab2", "aaa1"], (await Registry.ListMigrationsAsync(null, 9, Token)).Select(move => move.Id));
        Assert.Equal(["aab2"], (await Registry.ListMigrationsAsync(null, 1, Token)).Select(move => move.Id));
        var found = Assert.Single(await Registry.ListMigrationsAsync("g", 9, Token));
        Assert.Equal(first with { Snapshot = found.Snapshot, Policy = found.Policy }, found);
        Assert.Equivalent(first.Policy, found.Policy, strict: true);
        Assert.Equivalent(first.Snapshot, found.Snapshot, strict: true);
        Assert.Equal(2, (await Registry.FindMigrationsAsync("aa", Token)).Count);
        Assert.Equal("aab2", Assert.Single(await Registry.FindMigrationsAsync("aab", Token)).Id);
        // A pattern is text like any other.
        Assert.Empty(await Registry.FindMigrationsAsync("%", Token));
        await Registry.PutMigrationAsync(first with { GuestRunsOn = "a" }, Token);
        Assert.Equal("a", Assert.Single(await Registry.FindMigrationsAsync("aaa1", Token)).GuestRunsOn);
    }

    [Fact]
    public async Task A_token_is_taken_once_in_time_and_by_the_host_it_names()
    {
        await Registry.AddTokenAsync(new TokenRecord("any", "", Now.AddMinutes(1), null), Token);
        await Registry.AddTokenAsync(new TokenRecord("forb", "b", Now.AddMinutes(1), null), Token);
        Assert.Equal(TokenVerdict.Unknown, await Registry.TakeTokenAsync("none", "b", Now, Token));
        Assert.Equal(TokenVerdict.Expired, await Registry.TakeTokenAsync("any", "b", Now.AddMinutes(1), Token));
        Assert.Equal(TokenVerdict.OtherHost, await Registry.TakeTokenAsync("forb", "c", Now, Token));
        Assert.Equal(TokenVerdict.Accepted, await Registry.TakeTokenAsync("forb", "b", Now, Token));
        await ReopenAsync();
        Assert.Equal(TokenVerdict.Used, await Registry.TakeTokenAsync("forb", "b", Now, Token));
        Assert.Equal(Now, (await Registry.FindTokenAsync("forb", Token))!.Used);
        var attempts = Enumerable.Range(0, 16).Select(number =>
            Task.Run(() => Registry.TakeTokenAsync("any", $"host{number}", Now, Token)));
        Assert.Single(await Task.WhenAll(attempts), verdict => verdict == TokenVerdict.Accepted);
    }

    [Fact]
    public async Task The_authority_is_one()
    {
        Assert.Null(await Registry.GetAuthorityAsync(Token));
        await Registry.PutAuthorityAsync(new AuthorityRecord("ab", Now, 1), Token);
        await Registry.PutAuthorityAsync(new AuthorityRecord("ab", Now, 2), Token);
        await ReopenAsync();
        Assert.Equal(new AuthorityRecord("ab", Now, 2), await Registry.GetAuthorityAsync(Token));
    }

    [Fact]
    public async Task Any_text_comes_back_as_it_was()
    {
        await Gen.String.SampleAsync(async text =>
        {
            // SQLite ends a text at NUL when it compares; the daemon's names never hold one.
            var clean = text.Replace("\0", "", StringComparison.Ordinal);
            var guest = Guest("g") with { Detail = clean };
            await Registry.AddGuestAsync(guest, CancellationToken.None);
            var found = await Registry.FindGuestAsync(guest.Uuid, CancellationToken.None);
            await Registry.RemoveGuestAsync(guest.Uuid, CancellationToken.None);
            return found!.Detail == clean || char.IsSurrogate(clean.FirstOrDefault(char.IsSurrogate));
        }, iter: 50, threads: 1);
    }

    [Fact]
    public async Task What_is_learned_of_a_sleep_is_added_to_what_was_known()
    {
        var guest = Guid.NewGuid();
        var began = new SleepRecord(guest, "p1", "a", Now) { PredictedHost = "b", PredictedFor = Now.AddHours(9) };
        await Registry.PutSleepAsync(began, Token);
        await Registry.PutSleepAsync(
            new SleepRecord(guest, "p1", "a", Now) { ResumedOn = "c", Resumed = Now.AddHours(8) }, Token);
        await Registry.PutSleepAsync(
            new SleepRecord(guest, "p1", "a", Now) { HoardedBytes = 10, UsedBytes = 7 }, Token);
        await Registry.PutSleepAsync(new SleepRecord(guest, "p0", "b", Now.AddHours(-1)), Token);
        await Registry.PutSleepAsync(new SleepRecord(Guid.NewGuid(), "p1", "x", Now), Token);
        await ReopenAsync();
        var sleeps = await Registry.ListSleepsAsync(guest, Token);
        Assert.Equal(
            [
                began with { ResumedOn = "c", Resumed = Now.AddHours(8), HoardedBytes = 10, UsedBytes = 7 },
                new SleepRecord(guest, "p0", "b", Now.AddHours(-1)),
            ],
            sleeps);
        await Registry.RemoveSleepsAsync(guest, Token);
        Assert.Empty(await Registry.ListSleepsAsync(guest, Token));
    }

    [Fact]
    public async Task Of_a_guests_sleeps_the_newest_are_kept()
    {
        var guest = Guid.NewGuid();
        for (var i = 0; i < 503; i++)
        {
            await Registry.PutSleepAsync(new SleepRecord(guest, $"p{i}", "a", Now.AddHours(i)), Token);
        }

        var sleeps = await Registry.ListSleepsAsync(guest, Token);
        Assert.Equal((500, "p502", "p3"), (sleeps.Count, sleeps[0].Parcel, sleeps[^1].Parcel));
    }
}

public sealed class SqliteRegistryTests : RegistryConformance
{
    private readonly string _directory = Directory.CreateTempSubdirectory("godwit-registry-").FullName;

    private string File => Path.Combine(_directory, "registry.db");

    protected override IRegistry Open() => SqliteRegistry.Open(File);

    public override async ValueTask DisposeAsync()
    {
        await base.DisposeAsync();
        Directory.Delete(_directory, recursive: true);
        GC.SuppressFinalize(this);
    }

    private async Task RunAsync(string sql)
    {
        await using var connection = new Microsoft.Data.Sqlite.SqliteConnection($"Data Source={File};Pooling=false");
        await connection.OpenAsync(Token);
        await using var command = connection.CreateCommand();
#pragma warning disable CA2100 // The tests' own text.
        command.CommandText = sql;
#pragma warning restore CA2100
        await command.ExecuteNonQueryAsync(Token);
    }

    [Fact]
    public async Task The_first_schema_is_upgraded_with_what_it_holds()
    {
        var guest = Guest("g");
        await Registry.AddGuestAsync(guest, Token);
        await Registry.DisposeAsync();
        await RunAsync(
            "ALTER TABLE guests DROP COLUMN parcel; DROP TABLE revocations; DROP TABLE sleeps; PRAGMA user_version=1");
        await using var upgraded = SqliteRegistry.Open(File);
        Assert.NotNull(await upgraded.FindGuestAsync(guest.Uuid, Token));
        await upgraded.RemoveHostAsync(new RevocationRecord("cluster", "b", DateTimeOffset.UnixEpoch), Token);
        Assert.Single(await upgraded.ListRevocationsAsync("cluster", Token));
    }

    [Fact]
    public async Task A_newer_schema_is_refused_and_left_alone()
    {
        await Registry.DisposeAsync();
        await RunAsync("PRAGMA user_version=99");
        var refusal = Assert.Throws<GodwitException>(() => SqliteRegistry.Open(File));
        Assert.Equal("registry-newer", refusal.Code);
        Assert.Contains("99", refusal.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_damaged_file_is_told_from_one_that_cannot_be_written()
    {
        await Registry.DisposeAsync();
        await System.IO.File.WriteAllTextAsync(File, new string('x', 8192), Token);
        Assert.Equal("registry-broken", Assert.Throws<GodwitException>(() => SqliteRegistry.Open(File)).Code);
        Assert.Equal("state-unwritable", Assert.Throws<GodwitException>(
            () => SqliteRegistry.Open(Path.Combine(_directory, "none", "registry.db"))).Code);
    }
}
