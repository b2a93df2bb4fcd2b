using System.Security.Cryptography;
using System.Text.Json;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Storage;

namespace Godwit.ChunkStore.Tests.Storage;

/// <summary>A guest's memory as a list of page numbers, and what it takes to keep it in a store.</summary>
internal sealed class StoreRig(IObjectStorage storage, StoreKey? key = null)
{
    public const string Guest = "11111111-2222-3333-4444-555555555555";
    private int _sessions;
    private int _salt;

    public IObjectStorage Storage => storage;

    public StoreKey? Key => key;

    public StoreWriterOptions Options => new(Fill, SegmentCoding.Lz4, PackBytes: 128 << 10);

    public static TestSigner Signer { get; } = new();

    // The same bytes in each run; never the same twice in one.
    public void Fill(Span<byte> bytes)
    {
        byte[] digest = SHA256.HashData(BitConverter.GetBytes(_salt++));
        digest.AsSpan(0, bytes.Length).CopyTo(bytes);
    }

    public Store Open()
    {
        Store.Create(storage, "aaaaaaaa-0000-0000-0000-000000000000", key);
        return Store.Open(storage, key, () => new SegmentCoder());
    }

    /// <summary>A page that is told from all others by its number; 0 is the page of zeros.</summary>
    public static byte[] Page(int content)
    {
        byte[] page = new byte[4096];
        if (content != 0)
        {
            new Random(content).NextBytes(page.AsSpan(0, 1024));
        }

        return page;
    }

    public ParcelManifest Suspend(Store store, string id, IReadOnlyList<int> memory, string parent = "")
    {
        using StoreSession session = StoreSession.Begin(store, $"s-{id}-{_sessions++}", "a", 0, Fill);
        using var writer = new StoreWriter(store, Options);
        ChunkId[] pages = [.. memory.Select(
            content => content == 0 ? default : writer.Put(Page(content), ChunkGroup.Memory))];
        ChunkId root = ChunkTree.Build(pages, node => writer.Put(node, ChunkGroup.Nodes));
        writer.Flush();
        ParcelManifest manifest = Manifest(id, root, memory.Count, parent) with { BytesWritten = writer.BytesWritten };
        Assert.True(ParcelShelf.Put(store, manifest, Signer, Fill));
        return manifest;
    }

    public static ParcelManifest Manifest(string id, ChunkId root, int pages, string parent = "") => new()
    {
        Format = ParcelManifest.FormatVersion,
        Id = id,
        Kind = ParcelKind.Suspend,
        Guest = Guest,
        Name = "web1",
        Host = "a",
        Home = "aaaaaaaa-0000-0000-0000-000000000000",
        Epoch = 1,
        CreatedUnixMs = 1,
        Parent = parent,
        Contract = JsonDocument.Parse("""{"cpus":1}""").RootElement,
        Qemu = "10.0.2",
        State = new ParcelPart("state", 0, default(ChunkId).ToString()),
        StateHeadBytes = 0,
        Memory = [new ParcelPart("pc.ram", pages * 4096L, root.ToString())],
        Disks = [],
    };

    /// <summary>Reads a parcel back: the content number of each page.</summary>
    public static void Expect(Store store, string id, IReadOnlyList<int> memory)
    {
        ParcelManifest manifest = ParcelShelf.Find(store, Guest, id, Signer)!;
        Assert.NotNull(manifest);
        using StoreReader reader = store.OpenReader();
        ChunkId[] pages = ChunkTree.Load(manifest.Memory[0].RootId, memory.Count, reader);
        Assert.Equal(memory.Count, pages.Length);
        var wanted = new List<WantedChunk>();
        for (int i = 0; i < pages.Length; i++)
        {
            Assert.Equal(memory[i] == 0, pages[i].IsZeros);
            if (memory[i] != 0)
            {
                wanted.Add(new WantedChunk(pages[i], i));
            }
        }

        int seen = 0;
        reader.Read(wanted, (i, chunk) =>
        {
            Assert.True(chunk.SequenceEqual(Page(memory[i])), $"page {i} has another content");
            seen++;
        });
        Assert.Equal(wanted.Count, seen);
    }

    internal sealed class TestSigner : IParcelSigner, IParcelJudge
    {
        private readonly byte[] _key = new byte[32];

        public ReadOnlyMemory<byte> Certificate { get; } = "certificate of a"u8.ToArray();

        public byte[] Sign(ReadOnlySpan<byte> bytes) => HMACSHA256.HashData(_key, bytes);

        public string? Refusal(
            ReadOnlySpan<byte> certificate, ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> signature, string host) =>
            signature.SequenceEqual(HMACSHA256.HashData(_key, bytes)) && host == "a" ? null : "its signature is wrong";
    }
}
