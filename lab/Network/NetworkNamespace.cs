using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Lab.Network;

/// <summary>Runs code inside a namespace of the lab. A socket made there stays there, whoever uses it later.</summary>
internal static partial class NetworkNamespace
{
    private const int CloneNewNet = 0x40000000;

    /// <summary>Calls <paramref name="make"/> on a thread of its own that has entered the namespace.</summary>
    /// <remarks>The thread ends with the call: no pooled thread ever keeps a foreign namespace.</remarks>
    internal static T Enter<T>(string host, Func<T> make)
    {
        T? result = default;
        Exception? failure = null;
        Thread thread = new(() =>
        {
            try
            {
                Join(host);
                result = make();
            }
            catch (Exception e)
            {
                failure = e;
            }
        });
        thread.Start();
        thread.Join();
        return failure is null ? result! : throw new LabException($"In {host}: {failure.Message}", failure);
    }

    /// <summary>Moves the calling thread into the namespace, for the rest of its life.</summary>
    internal static void Join(string host)
    {
        string path = $"/run/netns/{LabDirectory.Namespace(host)}";
        if (!File.Exists(path))
        {
            throw new LabException($"The lab's {host} is not up: godwit-lab up.");
        }

        // Not File.Open: it wants to seek, and a namespace's file cannot.
        using SafeFileHandle file = new(Open(path, 0x80000 /* O_RDONLY | O_CLOEXEC */), ownsHandle: true);
        if (file.IsInvalid || SetNamespace(file, CloneNewNet) != 0)
        {
            throw new LabException($"Entering {path} failed: {Marshal.GetLastPInvokeErrorMessage()}.");
        }
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "setns", SetLastError = true)]
    private static partial int SetNamespace(SafeHandle file, int kind);
}
