using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Pages;

/// <summary>The library's memory for coding; freed with the handle.</summary>
internal sealed partial class ZstdEncoderContext() : SafeHandle(0, ownsHandle: true)
{
    public override bool IsInvalid => handle == 0;

    /// <exception cref="DllNotFoundException">The library is missing; the message names the package.</exception>
    public static ZstdEncoderContext Create() => Zstd.Create(ZSTD_createCCtx);

    protected override bool ReleaseHandle()
    {
        _ = ZSTD_freeCCtx(handle);
        return true;
    }

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial ZstdEncoderContext ZSTD_createCCtx();

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nuint ZSTD_freeCCtx(nint context);
}

/// <summary>The library's memory for decoding; freed with the handle.</summary>
internal sealed partial class ZstdDecoderContext() : SafeHandle(0, ownsHandle: true)
{
    public override bool IsInvalid => handle == 0;

    /// <exception cref="DllNotFoundException">The library is missing; the message names the package.</exception>
    public static ZstdDecoderContext Create() => Zstd.Create(ZSTD_createDCtx);

    protected override bool ReleaseHandle()
    {
        _ = ZSTD_freeDCtx(handle);
        return true;
    }

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial ZstdDecoderContext ZSTD_createDCtx();

    [LibraryImport(Zstd.Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    [UnmanagedCallConv(CallConvs = [typeof(CallConvCdecl)])]
    private static partial nuint ZSTD_freeDCtx(nint context);
}
