using System.Security.Cryptography;
using Godwit.Migration;

namespace Godwit.Host.Trust;

/// <summary>A private key on disk, readable by its owner only.</summary>
public static class KeyFile
{
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    /// <exception cref="GodwitException"><c>key-mode</c> if anyone but the owner could read the file.</exception>
    internal static ECDsa Read(string path)
    {
        CheckMode(path);
        var key = ECDsa.Create();
        try
        {
            key.ImportFromPem(File.ReadAllText(path));
            return key;
        }
        catch (Exception exception) when (exception is ArgumentException or CryptographicException)
        {
            key.Dispose();
            throw new GodwitException("key-broken", $"{path} holds no EC private key: {exception.Message}",
                "Restore the file from a backup, or remove the whole pki directory and join the cluster again.",
                exception);
        }
    }

    /// <exception cref="GodwitException"><c>key-mode</c>: somebody besides the owner can read the file.</exception>
    public static void CheckMode(string path)
    {
        var mode = File.GetUnixFileMode(path);
        if ((mode & ~OwnerOnly) != 0)
        {
            throw new GodwitException("key-mode",
                $"{path} has mode 0{Convert.ToString((int)mode, 8)}; a private key must have 0600.",
                $"If nobody else can have read it: chmod 600 {path}. Otherwise issue a new one by joining again.");
        }
    }

    internal static void Write(string path, ECDsa key) => Replace(path, key.ExportPkcs8PrivateKeyPem() + "\n");

    /// <summary>
    /// Replaces a file in one step, durably, with mode 0600: a crash leaves the old or the new, never a part.
    /// </summary>
    public static void Replace(string path, string text)
    {
        var next = path + ".new";
        File.Delete(next);
        using (var stream = new FileStream(next, new FileStreamOptions
        {
            Mode = FileMode.CreateNew,
            Access = FileAccess.Write,
            UnixCreateMode = OwnerOnly,
        }))
        {
            stream.Write(System.Text.Encoding.ASCII.GetBytes(text));
            stream.Flush(flushToDisk: true);
        }

        DurableFolder.Replace(next, path);
    }
}
