using System.Buffers.Text;
using System.Security.Cryptography;
using System.Text;
using Godwit.Migration;

namespace Godwit.Host.Trust;

/// <summary>What a joiner needs to know: whom to call, whom to believe, and the secret that admits it once.</summary>
/// <remarks>
/// One printable line, <c>godwit-join-1/HOST/ADDRESS/FINGERPRINT/SECRET</c>. The fingerprint is the authority's, so the
/// secret is shown to nobody who does not prove membership of that cluster.
/// </remarks>
/// <param name="Host">Name of the host that holds the authority.</param>
/// <param name="Address">Host and port of its Peer service.</param>
/// <param name="AuthoritySha256">Lower-case hexadecimal.</param>
/// <param name="Secret">256 random bits, base64url.</param>
public sealed record JoinToken(string Host, string Address, string AuthoritySha256, string Secret)
{
    private const string Prefix = "godwit-join-1";
    private const int SecretBytes = 32;
    private const int LengthMax = 1024;

    public static JoinToken Create(string host, string address, string authoritySha256) => new(
        host, address, authoritySha256, Base64Url.EncodeToString(RandomNumberGenerator.GetBytes(SecretBytes)));

    /// <summary>What the registry keeps in place of the secret.</summary>
    public static string Hash(string secret) =>
        Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(secret)));

    public override string ToString() => string.Join('/', Prefix, Host, Address, AuthoritySha256, Secret);

    /// <exception cref="GodwitException"><c>token-malformed</c>.</exception>
    public static JoinToken Parse(string text)
    {
        text = text.Trim();
        var parts = text.Length > LengthMax || text.AsSpan().ContainsAnyExceptInRange('!', '~') ? [] : text.Split('/');
        if (parts is not [Prefix, { Length: > 0 } host, { Length: > 0 } address, { Length: 64 } fingerprint, var secret]
            || !fingerprint.All(char.IsAsciiHexDigitLower) || !Base64Url.IsValid(secret, out var bytes)
            || bytes != SecretBytes)
        {
            throw new GodwitException("token-malformed",
                "The join token is incomplete or damaged; it is one line that begins with 'godwit-join-1/'.",
                "Copy it again as 'godwit host invite' printed it.");
        }

        return new JoinToken(host, address, fingerprint, secret);
    }
}
