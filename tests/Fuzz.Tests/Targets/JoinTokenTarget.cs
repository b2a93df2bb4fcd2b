using System.Text;
using Godwit.Host.Trust;
using Godwit.Migration;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>A join token: what is accepted is one, to the letter.</summary>
internal static class JoinTokenTarget
{
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        string text = Encoding.UTF8.GetString(bytes);
        try
        {
            JoinToken token = JoinToken.Parse(text);
            Require.That(token.ToString() == text.Trim(), "a token says all of itself");
            Require.That(
                !token.ToString().Any(c => char.IsControl(c) || char.IsWhiteSpace(c)), "it is one printable line");
            return true;
        }
        catch (GodwitException e) when (e.Code == "token-malformed")
        {
            return false;
        }
    }
}
