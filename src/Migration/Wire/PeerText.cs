using System.Text;

namespace Godwit.Migration.Wire;

/// <summary>Words that a peer chose, made fit for a log and a terminal.</summary>
public static class PeerText
{
    /// <summary>Longest text taken from a peer or sent to one, in bytes of UTF-8.</summary>
    public const int BytesMax = 4096;

    /// <summary>The text without control characters: they would move an operator's cursor or forge lines.</summary>
    public static string Printable(string text) => text.Any(IsForbidden)
        ? string.Create(text.Length, text, static (shown, from) =>
        {
            for (int i = 0; i < shown.Length; i++)
            {
                shown[i] = IsForbidden(from[i]) ? '?' : from[i];
            }
        })
        : text;

    /// <summary>The bytes as text; what is not UTF-8 shows as U+FFFD.</summary>
    public static string Decode(ReadOnlySpan<byte> bytes) => Printable(Encoding.UTF8.GetString(bytes));

    /// <summary>The text as it is sent: whole characters, at most <see cref="BytesMax"/> bytes.</summary>
    public static ReadOnlySpan<byte> Encode(string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(Printable(text));
        int length = Math.Min(bytes.Length, BytesMax);
        // Not in the middle of a character, whose first byte is the only one without the bits 10 in front.
        while (length < bytes.Length && (bytes[length] & 0xC0) == 0x80)
        {
            length--;
        }

        return bytes.AsSpan(0, length);
    }

    // A line's end is part of longer reasons.
    private static bool IsForbidden(char character) => char.IsControl(character) && character != '\n';
}
