using System.Runtime.InteropServices;
using Godwit.Migration.HandOver;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.HandOver;

/// <summary>A hand-over journal on disk. What was appended is flushed before the call returns.</summary>
public sealed partial class JournalFile : IJournalFile, IDisposable
{
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;
    private readonly string _path;
    private SafeFileHandle _file;
    private long _length;

    public JournalFile(string path)
    {
        _path = path;
        _file = Open(path);
        _length = RandomAccess.GetLength(_file);
    }

    public byte[] ReadAll()
    {
        byte[] content = new byte[_length];
        int at = 0;
        while (at < content.Length)
        {
            int read = RandomAccess.Read(_file, content.AsSpan(at), at);
            if (read == 0)
            {
                throw new EndOfStreamException($"{_path} became shorter while it was read.");
            }

            at += read;
        }

        return content;
    }

    public void Append(ReadOnlySpan<byte> bytes)
    {
        RandomAccess.Write(_file, bytes, _length);
        RandomAccess.FlushToDisk(_file);
        _length += bytes.Length;
    }

    public void Replace(ReadOnlySpan<byte> bytes)
    {
        string next = _path + ".next";
        File.Delete(next);
        SafeFileHandle file = Open(next);
        try
        {
            RandomAccess.Write(file, bytes, 0);
            RandomAccess.FlushToDisk(file);
            File.Move(next, _path, overwrite: true);
            DurableFolder.Flush(Path.GetDirectoryName(Path.GetFullPath(_path))!);
        }
        catch
        {
            file.Dispose();
            throw;
        }

        _file.Dispose();
        _file = file;
        _length = bytes.Length;
    }

    public void Dispose() => _file.Dispose();

    private static SafeFileHandle Open(string path)
    {
        using (var stream = new FileStream(path, new FileStreamOptions
        {
            Mode = FileMode.OpenOrCreate,
            Access = FileAccess.Write,
            Share = FileShare.ReadWrite | FileShare.Delete,
            UnixCreateMode = OwnerOnly,
        }))
        {
        }

        return File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
    }
}
