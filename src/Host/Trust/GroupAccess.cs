using System.Globalization;
using System.Runtime.InteropServices;
using Godwit.Migration;

namespace Godwit.Host.Trust;

/// <summary>Gives a file to a group, so that its members may use it besides the owner.</summary>
public static partial class GroupAccess
{
    /// <exception cref="GodwitException">
    /// <c>config-invalid</c>: there is no such group, or this user may not do it.
    /// </exception>
    public static void Give(string path, string group)
    {
        const int Unchanged = -1;
        if (ChangeOwner(path, Unchanged, IdOf(group)) != 0)
        {
            throw new GodwitException("config-invalid",
                $"{path} cannot be given to the group '{group}': {Marshal.GetLastPInvokeErrorMessage()}.",
                "Run godwitd as root, or leave controlGroup empty.");
        }
    }

    private static int IdOf(string name)
    {
        foreach (var line in File.ReadLines("/etc/group"))
        {
            if (line.Split(':') is [var group, _, var id, ..] && group == name)
            {
                return int.Parse(id, CultureInfo.InvariantCulture);
            }
        }

        throw new GodwitException("config-invalid", $"controlGroup names the group '{name}', which does not exist.",
            $"Make it: groupadd --system {name}.");
    }

    [LibraryImport("libc", EntryPoint = "chown", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int ChangeOwner(string path, int owner, int group);
}
