using System.Runtime.CompilerServices;
using Godwit.Fuzz.Tests.Targets;

namespace Godwit.Fuzz.Tests;

/// <summary>True: the bytes were accepted. False: refused as documented. Anything thrown is a crash.</summary>
internal delegate bool FuzzFunction(ReadOnlySpan<byte> bytes);

/// <summary>A parser of bytes that somebody else wrote, its corpus in <c>corpus/NAME</c>, and its budgets.</summary>
/// <param name="Runs">Mutations in an ordinary test run: about five seconds' worth.</param>
/// <param name="BytesPerByte">Memory that a byte of input may cost, the target's own checks included.</param>
internal sealed record FuzzTarget(string Name, FuzzFunction Fuzz, int Runs, int BytesPerByte = 64)
{
    // What a parser may take before a byte has come: its own buffers. No stated length is so small.
    private const int BytesAtOnce = 256 << 10;

    /// <summary>A new parser has its row here, a file in Targets, and seeds in its corpus.</summary>
    public static readonly FuzzTarget[] All =
    [
        new("qemu-stream", QemuStreamTarget.Fuzz, 100_000),
        new("return-path", ReturnPathTarget.Fuzz, 1_000_000),
        new("qmp", QmpTarget.Fuzz, 200_000, BytesPerByte: 512),
        new("lane-preamble", LanePreambleTarget.Fuzz, 1_000_000),
        new("control-lane", ControlLaneTarget.Fuzz, 1_000_000, BytesPerByte: 2048),
        new("page-batch", PageBatchTarget.FuzzVersion1, 500_000),
        new("page-batch-2", PageBatchTarget.Fuzz, 500_000),
        new("lz4", Lz4Target.Fuzz, 2_000_000),
        new("certificate", CertificateTarget.Fuzz, 50_000, BytesPerByte: 1024),
        new("certificate-request", CertificateTarget.FuzzRequest, 100_000, BytesPerByte: 1024),
        new("handover-journal", HandOverJournalTarget.Fuzz, 200_000, BytesPerByte: 512),
        new("content-index", ContentIndexTarget.Fuzz, 300_000),
        new("store-pack", StoreTargets.FuzzPack, 500_000, BytesPerByte: 128),
        new("store-segment", StoreTargets.FuzzSegment, 100_000),
        new("store-index", StoreTargets.FuzzIndex, 300_000),
        new("store-node", StoreTargets.FuzzNode, 1_000_000),
        new("store-manifest", StoreTargets.FuzzManifest, 50_000, BytesPerByte: 1024),
        new("join-token", JoinTokenTarget.Fuzz, 1_000_000),
    ];

    public string Folder => Path.Combine(CorpusFolder, Name);

    public static string CorpusFolder { get; } = Path.Combine(Here(), "corpus");

    /// <summary>Corpus entries by file name, in a fixed order.</summary>
    public IReadOnlyList<(string File, byte[] Bytes)> Corpus() =>
        [.. Directory.EnumerateFiles(Folder).Order(StringComparer.Ordinal)
            .Select(path => (Path.GetFileName(path), File.ReadAllBytes(path)))];

    /// <summary>Runs one input, and counts more memory than its bytes can account for as a crash.</summary>
    public bool Run(ReadOnlySpan<byte> bytes)
    {
        long max = BytesAtOnce + ((long)BytesPerByte * bytes.Length);
        long taken = 0;
        // What a first call prepares for all later ones does not show in the second.
        for (int time = 0; time < 2; time++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            bool accepted = Fuzz(bytes);
            taken = GC.GetAllocatedBytesForCurrentThread() - before;
            if (taken <= max)
            {
                return accepted;
            }
        }

        throw new InvalidOperationException(
            $"{bytes.Length} bytes of input cost {taken} bytes of memory; the limit is {max}.");
    }

    private static string Here([CallerFilePath] string file = "") => Path.GetDirectoryName(file)!;
}
