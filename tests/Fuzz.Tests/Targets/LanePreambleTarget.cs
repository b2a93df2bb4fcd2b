using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>The first bytes of a lane, which a stranger with a certificate may send.</summary>
internal static class LanePreambleTarget
{
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < LanePreamble.Size)
        {
            // The listener reads exactly that many before it looks.
            return false;
        }

        try
        {
            (int version, int lane, byte[] ticket) = LanePreamble.Read(bytes[..LanePreamble.Size]);
            Span<byte> again = stackalloc byte[LanePreamble.Size];
            LanePreamble.Write(again, version, lane, ticket);
            Require.That(bytes.StartsWith(again), "what was read is written as it came");
            return true;
        }
        catch (StreamFormatException)
        {
            return false;
        }
    }
}
