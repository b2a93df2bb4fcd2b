using System.Buffers;
using System.IO.Compression;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using System.Text;
using System.Text.Json;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Fuzz.Tests.Targets;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.HandOver;
using Godwit.Host.Storage;
using Godwit.Host.Trust;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Fuzz.Tests;

/// <summary>Where the corpus comes from: our own encoders, and streams captured from real QEMU.</summary>
public class Seeds
{
    // Run by hand after a format has changed; what an older version wrote stays in the corpus as long as it is read.
    [Fact(Explicit = true)]
    public void Are_written()
    {
        WriteStreams();
        WriteReturnPath();
        WriteLanes();
        WriteBatches();
        WriteTrust();
        WriteJournals();
        WriteIndexes();
        WriteStore();
    }

    private static void Write(string target, string file, ReadOnlySpan<byte> bytes)
    {
        string folder = Directory.CreateDirectory(Path.Combine(FuzzTarget.CorpusFolder, target)).FullName;
        File.WriteAllBytes(Path.Combine(folder, file), bytes);
    }

    // A whole stream is 16 MiB of pages; a few of each kind, and the beginning of its device state, say as much here.
    private static void WriteStreams()
    {
        string vectors = Path.Combine(FuzzTarget.CorpusFolder, "..", "..", "vectors", "qemu");
        foreach (string path in Directory.EnumerateFiles(vectors, "*.gz"))
        {
            using var gzip = new GZipStream(File.OpenRead(path), CompressionMode.Decompress);
            using var bytes = new MemoryStream();
            gzip.CopyTo(bytes);
            var kept = new Few();
            new QemuStreamReader(kept).Feed(bytes.GetBuffer().AsSpan(0, (int)bytes.Length));
            Write("qemu-stream", $"good-{Path.GetFileNameWithoutExtension(path)}", kept.Stream());
        }
    }

    private static void WriteReturnPath()
    {
        var output = new ArrayBufferWriter<byte>();
        ReturnPathWriter.Pong(output, 1);
        ReturnPathWriter.SwitchoverAck(output);
        ReturnPathWriter.Shut(output, 0);
        Write("return-path", "good-move", output.WrittenSpan);
        Write("return-path", "good-failed", [0, 1, 0, 4, 0xFF, 0xFF, 0xFF, 0xEA]);
        Write("return-path", "good-half-a-message", [0, 2, 0, 4, 0, 0]);
        Write("return-path", "bad-page-request", [0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]);
        Write("return-path", "good-page-requests",
        [
            0, 3, 0, 19, 0, 0, 0, 0, 0, 0x0C, 0, 0, 0, 0, 0x10, 0, 6, .. "pc.ram"u8,
            0, 4, 0, 12, 0, 0, 0, 0, 0, 0x0D, 0, 0, 0, 0, 0x10, 0,
        ]);
        Write("return-path", "bad-length", [0, 1, 0xFF, 0xFF, 0, 0, 0, 0]);
    }

    private static void WriteIndexes()
    {
        var subject = new IndexSubject(ContentName.Of("web1"u8), 1 << 20, 42, "web1");
        byte[] empty = new ContentIndexBuilder().Build(subject);
        Write("content-index", "good-empty", empty);
        var builder = new ContentIndexBuilder();
        byte[] block = new byte[ContentIndex.BlockBytes];
        for (byte i = 1; i <= 9; i++)
        {
            block[i * 100] = i;
            builder.Add(i, block);
        }

        byte[] nine = builder.Build(subject);
        Write("content-index", "good-nine", nine);
        Write("content-index", "bad-cut", nine.AsSpan(0, nine.Length - 9));
        Write("content-index", "bad-byte", [.. nine[..80], (byte)~nine[80], .. nine[81..]]);
        Write("content-index", "bad-version", [.. nine[..4], 9, .. nine[5..]]);
    }

    private static void WriteJournals()
    {
        string path = Path.GetTempFileName();
        using var file = new JournalFile(path);
        Guid guest = new("0a1b2c3d-0000-4000-8000-000000000002");
        HandOverJournal journal = HandOverJournal.Open(file, new Guid("0a1b2c3d-0000-4000-8000-000000000001"));
        Write("handover-journal", "good-new", file.ReadAll());
        HandOverRecord record = new(
            HandOverState.Committed, "1qp6gmc9g0q1", guest, "b", 2, new Guid("0a1b2c3d-0000-4000-8000-000000000003"));
        journal.Record(record);
        journal.Record(record with { State = HandOverState.Left });
        journal.Record(record with { State = HandOverState.Resuming, Migration = "1qp6gmc9g0q2", Epoch = 3 });
        journal.Record(record with { Migration = "1qp6gmc9g0q3", Epoch = 4 });
        byte[] whole = file.ReadAll();
        Write("handover-journal", "good-four-records", whole);
        Write("handover-journal", "good-torn", whole.AsSpan(0, whole.Length - 5));
        whole[40] ^= 1;
        Write("handover-journal", "bad-damaged", whole);
        Write("handover-journal", "bad-magic", "GODWITJ9 and whatever follows it"u8);
        File.Delete(path);
    }

    private static void WriteLanes()
    {
        byte[] preamble = new byte[LanePreamble.Size];
        LanePreamble.Write(preamble, 1, 2, [.. Enumerable.Range(0, LanePreamble.TicketBytes).Select(i => (byte)i)]);
        Write("lane-preamble", "good-lane-2", preamble);
        Write("lane-preamble", "bad-magic", [(byte)'H', .. preamble[1..]]);
        ControlMessage[] messages =
        [
            new ControlMessage.Prologue(Encoding.ASCII.GetBytes("QEVM and so on")),
            new ControlMessage.StreamCommand(11, ReadOnlyMemory<byte>.Empty),
            new ControlMessage.DeviceState(new byte[3000]), new ControlMessage.DeviceState(new byte[] { 1, 2, 3 }),
            new ControlMessage.PagesMissing(1, (byte[])[2, 0, 0, 0, 0xFF, .. new byte[63]]),
            new ControlMessage.MissingTold(), new ControlMessage.PagesRequested(1, new PageNumber(1030), 1),
            new ControlMessage.MemoryComplete(new FaultReport(9, TimeSpan.FromMilliseconds(2),
                TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(7), TimeSpan.FromMilliseconds(8))),
            new ControlMessage.Received(1L << 40), new ControlMessage.Ping(7), new ControlMessage.Pong(-1),
            new ControlMessage.PagesPlaced(), new ControlMessage.Loaded(TimeSpan.FromTicks(4), TimeSpan.FromTicks(5)),
            new ControlMessage.Commit(),
            new ControlMessage.Running(TimeSpan.FromTicks(1), TimeSpan.FromTicks(2), TimeSpan.FromTicks(3)),
            new ControlMessage.Abort("link-lost", "b does not answer; größer als nötig"),
            new ControlMessage.InventoryOffer(ContentOrigin.Disk, new byte[24]),
            new ControlMessage.InventoryReady(TakesDeltas: true),
            new ControlMessage.PagesWanted(1, 7, (byte[])[.. new byte[63], 0x80]),
        ];
        var all = new ArrayBufferWriter<byte>();
        foreach (ControlMessage message in messages)
        {
            int at = all.WrittenCount;
            message.Encode(all);
            Write("control-lane", $"good-{message.GetType().Name.ToLowerInvariant()}-{at}", all.WrittenSpan[at..]);
        }

        Write("control-lane", "good-all", all.WrittenSpan);
        Write("control-lane", "good-half-a-frame", all.WrittenSpan[..12]);
        byte[] header = new byte[FrameHeader.Size];
        new FrameHeader(FrameType.Ping, FrameHeader.ControlBodyMax + 1).Write(header);
        Write("control-lane", "bad-length", header);
        Write("control-lane", "bad-claims-a-mebibyte", [8, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0x10, 0, 1, 2, 3, 4]);
        Write("control-lane", "bad-code-is-no-text", [3, 0, 0, 0, 26, 0, 0, 0, 2, 0x1B, (byte)'[']);
    }

    private static void WriteBatches()
    {
        foreach (int version in new[] { PageBatch.Version1, PageBatch.Version2 })
        {
            using var builder = new PageBatchBuilder(version);
            for (int kind = 0; kind < 5; kind++)
            {
                WriteBatch(builder, kind, version == PageBatch.Version1 ? "page-batch" : "page-batch-2");
            }
        }

        WriteBatchOfAllKinds(BlockCoding.Plain, "good-all-kinds-plain");
        WriteBatchOfAllKinds(BlockCoding.Lz4, "good-all-kinds-lz4");
        WriteBatchOfAllKinds(new BlockCoding(BlockCoder.Zstd, 1, 20), "good-all-kinds-zstd");
        WriteBlocks();
    }

    private static void WriteBatch(PageBatchBuilder builder, int kind, string target)
    {
        byte[] encoded = new byte[PageBatch.EncodedBytesMax];
        int region = kind * 3;
        builder.Begin(0, region);
        for (int page = kind; page < 10 + kind; page += kind == 0 ? 1 : 2)
        {
            var number = new PageNumber(((long)region * Page.RegionPages) + page);
            if (kind == 1 || (kind > 2 && page % 4 == 0))
            {
                builder.AddZero(number);
            }
            else
            {
                Span<byte> content = builder.AddContents(number, 1);
                content.Clear();
                content[..64].Fill((byte)(page + 1));
            }
        }

        int length = builder.Encode(encoded, kind == 2 ? BlockCoding.Plain : BlockCoding.Lz4);
        Write(target, $"good-{kind}", encoded.AsSpan(0, length));
    }

    private static void WriteBatchOfAllKinds(BlockCoding coding, string file)
    {
        using var builder = new PageBatchBuilder(PageBatch.Version4);
        byte[] encoded = new byte[PageBatch.EncodedBytesMax];
        builder.Begin(2, 1);
        builder.AddZero(new PageNumber(520));
        Span<byte> contents = builder.AddContents(new PageNumber(521), 8);
        contents.Clear();
        for (int page = 0; page < 8; page++)
        {
            contents.Slice(page * Page.Size, page == 0 ? Page.Size : 40).Fill((byte)(page + 1));
        }

        byte[] old = builder.ContentOf(3).ToArray();
        old[7] = old[300] = 0xFF;
        builder.TrySetDelta(3, old, PageDelta.BytesMax);
        builder.SetKnown(4, old.AsSpan(0, PageBatch.NameBytes));
        builder.SetRaw(5);
        byte[] sums = new byte[PageLines.SumsBytes];
        PageLines.Sum(old, sums);
        foreach (int slot in new[] { 6, 7 })
        {
            builder.TrySetChanged(slot, sums, PageDelta.BytesMax, out Span<byte> name);
            name.Fill((byte)slot);
        }

        Write("page-batch-2", file, encoded.AsSpan(0, builder.Encode(encoded, coding)));
    }

    private static void WriteBlocks()
    {
        byte[] encoded = new byte[PageBatch.EncodedBytesMax];
        byte[] plain = Encoding.ASCII.GetBytes(string.Concat(Enumerable.Range(0, 400).Select(i => $"{i % 37},")));
        foreach (byte[] raw in new[] { plain, new byte[Page.Size], RandomNumberGenerator.GetBytes(300) })
        {
            int length = Lz4.Compress(raw, encoded);
            Write("lz4", $"good-{raw.Length}-as-{length}", encoded.AsSpan(0, length));
        }

        Write("lz4", "bad-empty", []);
        Write("lz4", "bad-offset", [0x10, 0x41, 0xFF, 0xFF, 0x00]);
    }

    private static void WriteTrust()
    {
        string directory = Directory.CreateTempSubdirectory("gw-seeds-").FullName;
        try
        {
            using var authority = CertificateAuthority.Create(directory, "a", TimeProvider.System);
            File.WriteAllText(
                Path.Combine(FuzzTarget.CorpusFolder, "authority.pem"), authority.Certificate.ExportCertificatePem());
            byte[] request = HostIdentity.CreateRequest(directory, "b");
            Write("certificate-request", "good-b", request);
            using X509Certificate2 signed = authority.Sign(request, "b", "10.0.0.2");
            Write("certificate", "good-b", signed.RawData);
            Write("certificate", "bad-authority", authority.Certificate.RawData);
            using ECDsa key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
            var named = new X500DistinguishedNameBuilder();
            named.AddCommonName("b\n12:00:00.000 info: all is well\u001b[2J");
            var forged = new CertificateRequest(named.Build(), key, HashAlgorithmName.SHA256);
            DateTimeOffset now = DateTimeOffset.UtcNow;
            using X509Certificate2 self = forged.CreateSelfSigned(now, now.AddDays(2));
            Write("certificate", "bad-self-signed-with-a-line-in-its-name", self.RawData);
            using RSA rsa = RSA.Create(2048);
            Write("certificate-request", "bad-rsa", new CertificateRequest(
                "CN=b", rsa, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1).CreateSigningRequest());
            string token = JoinToken.Create("a", "[fd00::1]:7843", HostIdentity.Fingerprint(signed)).ToString();
            Write("join-token", "good-token", Encoding.ASCII.GetBytes(token));
            Write("join-token", "good-with-line-end", Encoding.ASCII.GetBytes($" {token}\r\n"));
            Write("join-token", "bad-cut", Encoding.ASCII.GetBytes(token[..^5]));
            Write("join-token", "bad-line-inside", Encoding.ASCII.GetBytes(token.Replace("/a/", "/a\nb/")));
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    private static void WriteStore()
    {
        string root = Directory.CreateTempSubdirectory("gw-seeds-").FullName;
        try
        {
            var storage = new DirectoryStorage(root);
            storage.Prepare();
            Store.Create(storage, "11111111-2222-3333-4444-555555555555", key: null);
            Store store = Store.Open(storage, key: null, () => new SegmentCoder());
            var random = new Random(1);
            using var writer = new StoreWriter(store, new StoreWriterOptions(bytes => random.NextBytes(bytes)));
            ChunkId[] pages = new ChunkId[20];
            for (int i = 1; i < pages.Length; i++)
            {
                byte[] page = new byte[Page.Size];
                page.AsSpan(0, 64).Fill((byte)i);
                pages[i] = writer.Put(page, ChunkGroup.Memory);
            }

            ChunkId root1 = ChunkTree.Build(pages, node =>
            {
                Write("store-node", $"good-{node[1]}-{node.Length}", node);
                return writer.Put(node, ChunkGroup.Nodes);
            });
            writer.Flush();
            var manifest = new ParcelManifest
            {
                Format = ParcelManifest.FormatVersion, Id = "1c2k00000000", Kind = ParcelKind.Suspend,
                Guest = "11111111-2222-3333-4444-555555555556", Name = "web1", Host = "a", Home = "s", Epoch = 1,
                CreatedUnixMs = 1, Contract = JsonDocument.Parse("""{"cpus":1}""").RootElement, Qemu = "10.0.2",
                State = new ParcelPart("state", 5000, root1.ToString()), StateHeadBytes = 100,
                Memory = [new ParcelPart("pc.ram", pages.Length * Page.Size, root1.ToString())],
                Disks = [new ParcelPart("/srv/web1.raw", 4096, default(ChunkId).ToString())],
            };
            ParcelShelf.Put(store, manifest, new Signer(), bytes => random.NextBytes(bytes));
            foreach (string kind in (string[])["packs", "indexes", "parcels"])
            {
                string file = Directory.EnumerateFiles(
                    Path.Combine(root, kind), "*", SearchOption.AllDirectories).Single();
                byte[] bytes = File.ReadAllBytes(file);
                Write(
                    kind switch { "packs" => "store-pack", "indexes" => "store-index", _ => "store-manifest" },
                    "good-small", bytes);
                if (kind == "packs")
                {
                    int length = 12 + BitConverter.ToInt32(bytes, ObjectHeader.Size + 8);
                    Write("store-segment", "good-lz4", bytes.AsSpan(ObjectHeader.Size, length));
                }
            }
        }
        finally
        {
            Directory.Delete(root, recursive: true);
        }
    }

    private sealed class Signer : IParcelSigner
    {
        public ReadOnlyMemory<byte> Certificate { get; } = "certificate"u8.ToArray();

        public byte[] Sign(ReadOnlySpan<byte> bytes) => SHA256.HashData(bytes);
    }

    private sealed class Few : IQemuStreamSink
    {
        private const int TailBytes = 300;
        private readonly ArrayBufferWriter<byte> _output = new();
        private QemuStreamWriter? _writer;
        private QemuStreamHead? _head;
        private int _zero;
        private int _content;
        private int _tail;

        public ReadOnlySpan<byte> Stream() => _output.WrittenSpan;

        public void Prologue(ReadOnlySpan<byte> verbatim, QemuStreamHead head)
        {
            _head = head;
            _writer = new QemuStreamWriter(_output, head);
            _writer.Prologue(verbatim);
            _writer.Footer();
            _writer.BeginPart();
        }

        public void Page(int blockIndex, PageNumber page, ReadOnlySpan<byte> content)
        {
            RamBlock block = _head!.Blocks[blockIndex];
            if (content.IsEmpty && _zero++ < 6)
            {
                _writer!.ZeroPage(block, page);
            }
            else if (!content.IsEmpty && _content++ < 1)
            {
                _writer!.Page(block, page, content);
            }
        }

        public void SectionEnd(bool final, int pages)
        {
            if (final)
            {
                _writer!.EndSection();
                _writer.BeginEnd();
                _writer.EndSection();
            }
        }

        public void Command(ushort number, ReadOnlySpan<byte> payload)
        {
        }

        public void Tail(ReadOnlySpan<byte> verbatim)
        {
            ReadOnlySpan<byte> some = verbatim[..Math.Min(verbatim.Length, TailBytes - _tail)];
            _output.Write(some);
            _tail += some.Length;
        }
    }
}
