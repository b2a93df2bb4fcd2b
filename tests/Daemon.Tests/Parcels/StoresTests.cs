using Godwit.Api.V1;
using Godwit.ChunkStore.Storage;
using Godwit.Daemon.Parcels;
using Godwit.Migration;

namespace Godwit.Daemon.Tests.Parcels;

public sealed class StoresTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("godwit-stores-").FullName;
    private readonly Stores _stores;

    public StoresTests() => _stores = Read();

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private Stores Read() => new(
        new DaemonSettings { HostName = "a", Address = "10.0.0.1", StateDirectory = _folder }, TimeProvider.System);

    private StoreEntry Create(string name, string at) =>
        Create(new StoreSpec { Name = name, Location = Path.Combine(_folder, at) }).Entry;

    private (StoreEntry Entry, bool IsNew) Create(StoreSpec spec) => _stores.CreateAsync(spec).GetAwaiter().GetResult();

    private static string Refused(Action action, string code)
    {
        var exception = Assert.Throws<GodwitException>(action);
        Assert.Equal(code, exception.Code);
        return exception.Message;
    }

    [Fact]
    public void What_was_made_known_is_known_to_the_next_daemon()
    {
        var entry = Create("office", "office");
        Assert.Equal(entry, Assert.Single(Read().All));
        Assert.Equal(entry, Create("office", "office"));
    }

    // Goal: two directories that both take themselves for a parcel's home are never used by one host.
    [Fact]
    public void A_store_that_was_copied_as_files_is_refused()
    {
        Create("office", "office");
        Directory.CreateDirectory(Path.Combine(_folder, "copy"));
        File.Copy(Path.Combine(_folder, "office", "godwit-store"), Path.Combine(_folder, "copy", "godwit-store"));
        Assert.Contains("office", Refused(() => Create("copy", "copy"), "store-invalid"), StringComparison.Ordinal);
        Assert.Single(_stores.All);
    }

    [Fact]
    public void A_directory_that_holds_something_else_becomes_no_store()
    {
        Directory.CreateDirectory(Path.Combine(_folder, "mount", "lost+found"));
        Create("disk", "mount");
        Directory.CreateDirectory(Path.Combine(_folder, "home"));
        File.WriteAllText(Path.Combine(_folder, "home", "letter"), "x");
        Assert.Contains("letter", Refused(() => Create("home", "home"), "store-invalid"), StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(_folder, "home", "godwit-store")));
    }

    // Goal: naming a store anew, to change its quota, takes no session away from work that is under way.
    [Fact]
    public void A_store_that_is_worked_on_stays_known_and_keeps_its_sessions()
    {
        var entry = Create("office", "office");
        StoreSession session = _stores.Begin(_stores.Open(entry));
        Refused(() => _stores.Forget("office"), "store-busy");
        Create("office", "office");
        session.RequireThere();
        session.Dispose();
        _stores.Forget("office");
        Create("office", "office");
        using StoreSession later = _stores.Begin(_stores.Open(entry));
        later.RequireThere();
    }

    [Fact]
    public void Sessions_of_an_earlier_daemon_go_when_the_store_is_first_opened()
    {
        var session = _stores.Begin(_stores.Open(Create("office", "office")));
        var next = Read();
        next.Open(next.Find("office"));
        Assert.Throws<StorageException>(session.RequireThere);
    }

    // Goal: one store whose key is missing does not get in the way of the others.
    [Fact]
    public void A_missing_key_is_a_failure_of_its_store()
    {
        var key = Path.Combine(_folder, "key");
        var (entry, isNew) = Create(new StoreSpec
        {
            Name = "safe", Location = Path.Combine(_folder, "safe"), KeyFile = key,
        });
        Assert.True(isNew);
        File.Delete(key);
        var exception = Assert.Throws<GodwitException>(() => Read().Open(entry));
        Assert.True(StoreErrors.IsKnown(exception));
        Assert.Equal("store-key", StoreErrors.Explain("safe", exception).Code);
    }
}
