using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Godwit.ChunkStore.Storage;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Storage;

/// <summary>A store in a directory: of this host, or of a file system that several hosts have mounted.</summary>
/// <remarks>
/// An object is written under another name, made durable, and gets its own name by a hard link, which fails if there is
/// one: so it appears whole and once, whoever else is writing. Any thread may use it.
/// </remarks>
public sealed partial class DirectoryStorage : IStorePlace
{
    private const UnixFileMode OwnerOnlyFile = UnixFileMode.UserRead | UnixFileMode.UserWrite;
    private const UnixFileMode OwnerOnly = OwnerOnlyFile | UnixFileMode.UserExecute;
    private const string Unfinished = "unfinished";
    private const int NotPermitted = 1;
    private const int FileExists = 17;
    private const int NoSuchCall = 38;
    private const int NotSupported = 95;
    private const int NoSpace = 28;
    private const int QuotaExceeded = 122;
    // An interrupted write may have left a file; a live one takes seconds.
    private static readonly TimeSpan UnfinishedAgeMax = TimeSpan.FromDays(1);

    // Folders whose names are durable, as this process knows.
    private readonly ConcurrentDictionary<string, bool> _durable = [];
    private readonly string _root;

    /// <param name="root">Its directory.</param>
    public DirectoryStorage(string root) => _root = Path.GetFullPath(root);

    // Whatever is mounted over an empty directory takes it away with it: nothing may then be written beneath.
    private bool IsThere => File.Exists(Path.Combine(_root, Descriptor));

    private static string Descriptor => "godwit-store";

    /// <summary>Makes the directory, if it is not there, and clears what an interrupted write left.</summary>
    public void Prepare() => Guard("prepare", () =>
    {
        Directory.CreateDirectory(_root, OwnerOnly);
        var unfinished = new DirectoryInfo(Path.Combine(_root, Unfinished));
        Directory.CreateDirectory(unfinished.FullName, OwnerOnly);
        foreach (FileInfo file in unfinished.EnumerateFiles())
        {
            if (DateTime.UtcNow - file.LastWriteTimeUtc > UnfinishedAgeMax)
            {
                file.Delete();
            }
        }

        return true;
    });

    public string? FindStranger() => Guard("list", () => !Directory.Exists(_root) ? null
        : Directory.EnumerateFileSystemEntries(_root).Select(Path.GetFileName)
            .FirstOrDefault(name => name is not (Unfinished or "lost+found")));

    public bool PutIfAbsent(string name, ReadOnlyMemory<byte> content) => PutIfAbsent(name, content, static () => true);

    public bool PutIfAbsent(
        string name, ReadOnlyMemory<byte> content, Func<bool> isWanted) => Guard($"write {name}", () =>
    {
        if (name != Descriptor)
        {
            RequireThere();
        }

        string path = PathOf(name);
        string folder = Path.GetDirectoryName(path)!;
        CreateFolder(folder);
        if (File.Exists(path))
        {
            // Who put it may have failed at this: that it is there has to be true tomorrow as well.
            DurableFolder.Flush(folder);
            return false;
        }

        string unfinished = Path.Combine(
            _root, Unfinished, Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(16)));
        CreateFolder(Path.GetDirectoryName(unfinished)!);
        try
        {
            using (var stream = new FileStream(unfinished, new FileStreamOptions
            {
                Mode = FileMode.CreateNew, Access = FileAccess.Write, BufferSize = 0,
                UnixCreateMode = OwnerOnlyFile,
            }))
            {
                stream.Write(content.Span);
                stream.Flush(flushToDisk: true);
            }

            if (!isWanted())
            {
                throw new StorageException(
                    StorageFailure.Unreachable, $"{name} came too late: nobody waited for it any more");
            }

            if (Link(unfinished, path) != 0)
            {
                int error = Marshal.GetLastPInvokeError();
                if (error != FileExists)
                {
                    throw Failure($"write {name}", error, null);
                }

                DurableFolder.Flush(folder);
                return false;
            }
        }
        finally
        {
            File.Delete(unfinished);
        }

        DurableFolder.Flush(folder);
        return true;
    });

    public ReadOnlyMemory<byte>? TryReadAll(string name) => Guard<ReadOnlyMemory<byte>?>($"read {name}", () =>
    {
        try
        {
            return File.ReadAllBytes(PathOf(name));
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            if (name != Descriptor)
            {
                RequireThere();
            }

            return null;
        }
    });

    public bool TryRead(string name, long offset, Span<byte> part)
    {
        using SafeFileHandle? file = TryOpen(name);
        return file is not null && TryRead(name, file, offset, part);
    }

    public IPartReader OpenParts() => new Parts(this);

    public IReadOnlyList<StoredObject> List(string folder) => Guard($"list {folder}", () =>
    {
        var found = new List<StoredObject>();
        try
        {
            foreach (FileInfo file in new DirectoryInfo(PathOf(folder)).EnumerateFiles(
                "*", SearchOption.AllDirectories))
            {
                try
                {
                    found.Add(new StoredObject(Path.GetRelativePath(_root, file.FullName), file.Length));
                }
                catch (FileNotFoundException)
                {
                    // Removed since.
                }
            }
        }
        catch (DirectoryNotFoundException) when (found.Count == 0)
        {
            RequireThere();
        }

        return (IReadOnlyList<StoredObject>)found;
    });

    public void Delete(string name) => Guard($"remove {name}", () =>
    {
        try
        {
            File.Delete(PathOf(name));
        }
        catch (DirectoryNotFoundException)
        {
            RequireThere();
        }

        return true;
    });

    private SafeFileHandle? TryOpen(string name)
    {
        try
        {
            return File.OpenHandle(PathOf(name), share: FileShare.ReadWrite | FileShare.Delete);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            RequireThere();
            return null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Failure($"read {name}", e);
        }
    }

    private bool TryRead(string name, SafeFileHandle file, long offset, Span<byte> part)
    {
        try
        {
            while (!part.IsEmpty)
            {
                int count = RandomAccess.Read(file, part, offset);
                if (count == 0)
                {
                    return false;
                }

                part = part[count..];
                offset += count;
            }

            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Failure($"read {name}", e);
        }
    }

    private string PathOf(string name) => Path.Combine(_root, name);

    private void CreateFolder(string folder)
    {
        if (_durable.ContainsKey(folder) && Directory.Exists(folder))
        {
            return;
        }

        // Whoever made it, if it is there, may not have come as far as this.
        Directory.CreateDirectory(folder, OwnerOnly);
        // Its own name has to be durable before that of anything in it.
        for (string? above = Path.GetDirectoryName(folder);
            above is not null && above.Length >= _root.Length; above = Path.GetDirectoryName(above))
        {
            DurableFolder.Flush(above);
        }

        _durable[folder] = true;
    }

    private void RequireThere()
    {
        if (!IsThere)
        {
            throw new StorageException(
                StorageFailure.Unreachable, $"there is no store in {_root} (is the file system mounted?)");
        }
    }

    private T Guard<T>(string what, Func<T> work)
    {
        try
        {
            return work();
        }
        catch (Exception e) when (e is (IOException or UnauthorizedAccessException) and not StorageException)
        {
            throw Failure(what, e);
        }
    }

    private StorageException Failure(string what, Exception e) => e is UnauthorizedAccessException
        ? new StorageException(StorageFailure.Denied, $"{_root} does not let this host {what}: {e.Message}", e)
        : Failure(what, e.HResult & 0xFFFF, e);

    private StorageException Failure(string what, int error, Exception? inner)
    {
        string why = inner?.Message ?? Marshal.GetPInvokeErrorMessage(error);
        if (inner is null && error is NotPermitted or NoSuchCall or NotSupported)
        {
            return new StorageException(
                StorageFailure.Unsuited, $"the file system of {_root} has no hard links ({why})", inner);
        }

        return error is NoSpace or QuotaExceeded
            ? new StorageException(StorageFailure.Full, $"no room to {what} in {_root}: {why}", inner)
            : new StorageException(StorageFailure.Unreachable, $"cannot {what} in {_root}: {why}", inner);
    }

    [LibraryImport("libc", EntryPoint = "link", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Link(string from, string to);

    // To open a file takes longer than to read it where each step is an answer to wait for.
    private sealed class Parts(DirectoryStorage storage) : PartReader
    {
        private const int FilesMax = 64;
        private readonly ConcurrentDictionary<string, SafeFileHandle> _open = [];

        public override void Dispose() => Close();

        protected override void BeginRead()
        {
            if (_open.Count >= FilesMax)
            {
                Close();
            }
        }

        protected override bool TryRead(string name, long offset, Span<byte> into)
        {
            if (!IsFar)
            {
                return storage.TryRead(name, offset, into);
            }

            if (!_open.TryGetValue(name, out SafeFileHandle? file))
            {
                SafeFileHandle? opened = storage.TryOpen(name);
                if (opened is null)
                {
                    return false;
                }

                file = _open.GetOrAdd(name, opened);
                if (file != opened)
                {
                    opened.Dispose();
                }
            }

            try
            {
                return storage.TryRead(name, file, offset, into);
            }
            catch (StorageException)
            {
                // A file of a file system that was mounted anew never answers again. Others may be reading it, so that
                // it is closed when nobody knows it any more.
                _open.TryRemove(new KeyValuePair<string, SafeFileHandle>(name, file));
                throw;
            }
        }

        private void Close()
        {
            foreach (SafeFileHandle file in _open.Values)
            {
                file.Dispose();
            }

            _open.Clear();
        }
    }
}
