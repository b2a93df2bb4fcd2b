using System.Globalization;
using System.Runtime.InteropServices;
using Godwit.Migration;

namespace Godwit.Host.Trust;

/// <summary>Gives a file to a group, so that its members may use it besides the owner.</summary>
public static partial class GroupAccess
{
    /// <param name="key">The setting that names the group, for messages.</param>
    /// <exception cref="GodwitException">
    /// <c>config-invalid</c>: there is no such group, or this user may not do it.
    /// </exception>
    public static void Give(string path, string group, string key)
    {
        const int Unchanged = -1;
        if (ChangeOwner(path, Unchanged, IdOf(group, key)) != 0)
        {
            throw new GodwitException("config-invalid",
                $"{path} cannot be given to the group '{group}': {Marshal.GetLastPInvokeErrorMessage()}.",
                $"Run godwitd as root, or leave {key} empty.");
        }
    }

    private static int IdOf(string name, string key)
    {
        foreach (var line in File.ReadLines("/etc/group"))
        {
            if (line.Split(':') is [var group, _, var id, ..] && group == name)
            {
                return int.Parse(id, CultureInfo.InvariantCulture);
            }
        }

        throw new GodwitException("config-invalid", $"{key} names the group '{name}', which does not exist.",
            $"Make it: groupadd --system {name}.");
    }

    [LibraryImport("libc", EntryPoint = "chown", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int ChangeOwner(string path, int owner, int group);
}
