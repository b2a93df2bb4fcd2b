using System.IO.Compression;
using System.Runtime.CompilerServices;

namespace Godwit.GuestStreams.Tests;

/// <summary>Streams captured from real QEMU; tests/vectors/qemu/README.md says how.</summary>
internal static class Vectors
{
    public const string SharedLeftOut = "pc-10.0-shared-left-out";
    public const string Running = "q35-10.0-running";

    public static readonly string[] Names =
    [
        "q35-10.0", "q35-7.2-qemu-7.2", Running, "q35-7.2-qemu-7.2-running", "pc-10.0-postcopy-advised",
        "pc-10.0-postcopy-hugetlb", SharedLeftOut, "pc-9.2-uuid",
    ];

    public static byte[] Load(string name)
    {
        using FileStream file = File.OpenRead(Path.Combine(Folder(), name + ".gz"));
        using var gzip = new GZipStream(file, CompressionMode.Decompress);
        using var bytes = new MemoryStream();
        gzip.CopyTo(bytes);
        return bytes.ToArray();
    }

    private static string Folder([CallerFilePath] string here = "") =>
        Path.Combine(Path.GetDirectoryName(here)!, "..", "vectors", "qemu");
}
