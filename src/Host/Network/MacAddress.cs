using System.Globalization;

namespace Godwit.Host.Network;

/// <summary>Ethernet addresses as text: six pairs of hexadecimal digits joined by colons.</summary>
internal static class MacAddress
{
    internal static byte[] Parse(string text) => TryParse(text, out byte[] mac)
        ? mac
        : throw new FormatException($"'{text}' is no MAC address; one looks like 52:54:00:12:34:56.");

    internal static bool TryParse(string? text, out byte[] mac)
    {
        string[] parts = (text ?? "").Split(':');
        mac = new byte[6];
        if (parts.Length != 6)
        {
            return false;
        }
        for (int i = 0; i < 6; i++)
        {
            if (parts[i].Length != 2
                || !byte.TryParse(parts[i], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out mac[i]))
            {
                return false;
            }
        }
        return true;
    }
}
