using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using CsCheck;
using Godwit.Host.Trust;
using Godwit.Migration;

namespace Godwit.Daemon.Tests.Trust;

public sealed class TrustTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("gw-trust-").FullName;
    private readonly SettableClock _clock = new();

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private string Pki(string host) => Path.Combine(_directory, host);

    private ClusterTrust Create(string host) => ClusterTrust.LoadOrCreate(Pki(host), host, "10.0.0.1", _clock);

    [Fact]
    public void A_first_start_makes_a_cluster_of_one_and_the_second_finds_it()
    {
        var trust = Create("a");
        using var authority = trust.LoadAuthority();
        Assert.NotNull(authority);
        Assert.Equal("a", trust.Identity.Name);
        Assert.True(trust.Verify(trust.Identity.Certificate, "a").Accepted);
        Assert.Equal(trust.Identity.Sha256, Create("a").Identity.Sha256);
        foreach (var file in Directory.EnumerateFiles(Pki("a")))
        {
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(file));
        }
    }

    [Fact]
    public void Lifetimes_names_and_usages_are_as_promised()
    {
        var certificate = Create("a").Identity.Certificate;
        var days = (certificate.NotAfter - certificate.NotBefore).TotalDays;
        Assert.InRange(days, 365, 365.1);
        using var authority = CertificateAuthority.Load(Pki("a"), _clock)!.Certificate;
        Assert.InRange((authority.NotAfter - authority.NotBefore).TotalDays, 3652, 3652.1);
        var names = certificate.Extensions.OfType<X509SubjectAlternativeNameExtension>().Single();
        Assert.Equal(["a"], names.EnumerateDnsNames());
        Assert.Equal("10.0.0.1", names.EnumerateIPAddresses().Single().ToString());
        Assert.Equal(256, certificate.GetECDsaPublicKey()!.KeySize);
    }

    [Fact]
    public void A_stranger_is_told_from_an_expired_member_and_from_another_member()
    {
        var (a, other) = (Create("a"), Create("other"));
        Assert.Equal("certificate-missing", a.Verify(null).Code);
        Assert.Equal("certificate-foreign", a.Verify(other.Identity.Certificate).Code);
        Assert.Equal("certificate-host-mismatch", a.Verify(a.Identity.Certificate, "b").Code);
        _clock.Advance(TimeSpan.FromDays(366));
        Assert.Equal("certificate-expired", a.Verify(a.Identity.Certificate).Code);
        Assert.Equal("certificate-foreign", a.Verify(other.Identity.Certificate).Code);
    }

    [Fact]
    public void The_authority_itself_and_a_self_made_certificate_are_no_members()
    {
        var trust = Create("a");
        Assert.Equal("certificate-foreign", trust.Verify(trust.Identity.Authority).Code);
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest(trust.Identity.Authority.SubjectName, key, HashAlgorithmName.SHA256);
        var now = _clock.GetUtcNow();
        using var forged = request.CreateSelfSigned(now.AddDays(-1), now.AddDays(1));
        Assert.Equal("certificate-foreign", trust.Verify(forged).Code);
    }

    [Fact]
    public void A_request_is_believed_in_its_key_only()
    {
        Create("a");
        using var authority = CertificateAuthority.Load(Pki("a"), _clock)!;
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest("CN=root", key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, false, 0, true));
        using var signed = authority.Sign(request.CreateSigningRequest(), "b", "10.0.0.2");
        Assert.Equal("b", HostIdentity.NameOf(signed));
        Assert.False(signed.Extensions.OfType<X509BasicConstraintsExtension>().Single().CertificateAuthority);
    }

    [Fact]
    public void A_false_weak_or_huge_request_is_refused()
    {
        Create("a");
        using var authority = CertificateAuthority.Load(Pki("a"), _clock)!;
        var good = HostIdentity.CreateRequest(Pki("a"), "b");
        good[^1] ^= 1;
        string Code(byte[] request) =>
            Assert.Throws<GodwitException>(() => authority.Sign(request, "b", "10.0.0.2")).Code;
        Assert.Equal("certificate-request", Code(good));
        Assert.Equal("certificate-request", Code([]));
        Assert.Equal("certificate-request", Code(new byte[1 << 20]));
        using var rsa = RSA.Create(2048);
        Assert.Equal("certificate-request", Code(new CertificateRequest(
            "CN=b", rsa, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1).CreateSigningRequest()));
        using var weak = ECDsa.Create(ECCurve.NamedCurves.nistP384);
        Assert.Equal("certificate-request", Code(
            new CertificateRequest("CN=b", weak, HashAlgorithmName.SHA256).CreateSigningRequest()));
    }

    // Goal: a clock that has been set back does not keep hosts out without a word of why.
    [Fact]
    public void A_certificate_signed_before_the_authority_began_is_not_valid_yet()
    {
        var trust = Create("a");
        _clock.Advance(TimeSpan.FromDays(-1));
        using var authority = trust.LoadAuthority()!;
        using var early = authority.Sign(trust.CreateRequest(), "b", "10.0.0.2");
        Assert.Equal("certificate-expired", trust.Verify(early).Code);
        _clock.Advance(TimeSpan.FromDays(1));
        Assert.True(trust.Verify(early, "b").Accepted);
    }

    // Goal: the host that holds the CA key never ends up with a certificate that nobody can renew.
    [Fact]
    public void The_host_with_the_ca_key_renews_itself_in_time_and_no_other_host_does()
    {
        var (a, b) = (Create("a"), Create("b"));
        using (var authority = a.LoadAuthority()!)
        using (var certificate = authority.Sign(b.CreateRequest(), "b", "10.0.0.2"))
        {
            b.Install(X509CertificateLoader.LoadCertificate(certificate.RawData),
                X509CertificateLoader.LoadCertificate(a.Identity.Authority.RawData));
        }

        var before = a.Identity.Sha256;
        _clock.Advance(TimeSpan.FromDays(334));
        Assert.False(a.RenewIfDue("10.0.0.1"));
        _clock.Advance(TimeSpan.FromDays(2));
        Assert.False(b.RenewIfDue("10.0.0.2"));
        Assert.True(a.RenewIfDue("10.0.0.1"));
        Assert.NotEqual(before, a.Identity.Sha256);
        Assert.True(b.Verify(a.Identity.Certificate, "a").Accepted);
        Assert.True(a.Identity.Certificate.HasPrivateKey);

        // And one that was switched off for longer does so at its start.
        _clock.Advance(TimeSpan.FromDays(400));
        var again = Create("a");
        Assert.True(again.Verify(again.Identity.Certificate, "a").Accepted);
        Assert.Equal("certificate-expired", again.Verify(b.Identity.Certificate).Code);
    }

    // Goal: after a removal no certificate of the host from before is good, the older ones it may have kept included;
    // one issued afterwards is, even in the same second.
    [Fact]
    public void What_was_issued_before_a_removal_is_refused_and_what_comes_after_is_not()
    {
        var trust = Create("a");
        using var authority = trust.LoadAuthority()!;
        var request = HostIdentity.CreateRequest(Directory.CreateDirectory(Pki("b")).FullName, "b");
        using var first = authority.Sign(request, "b", "10.0.0.2");
        _clock.Advance(TimeSpan.FromDays(30));
        using var renewed = authority.Sign(request, "b", "10.0.0.2");
        var changes = trust.Changes;
        Assert.Equal(("b", "b"), (trust.Verify(first).Host, trust.Verify(renewed).Host));

        var second = DateTimeOffset.FromUnixTimeSeconds(_clock.GetUtcNow().ToUnixTimeSeconds() + 1);
        trust.Revoke("b", second);
        Assert.NotEqual(changes, trust.Changes);
        foreach (var old in new[] { first, renewed })
        {
            Assert.Equal(("", "certificate-revoked"), (trust.Verify(old).Host, trust.Verify(old).Code));
            Assert.Equal("certificate-revoked", trust.Verify(old, "b").Code);
        }

        using var again = authority.Sign(request, "b", "10.0.0.2", second);
        Assert.True(trust.Verify(again, "b").Accepted);
        Assert.True(trust.Verify(trust.Identity.Certificate, "a").Accepted);
        // An older removal that is heard of late takes nothing back.
        trust.Revoke("b", second.AddDays(-10));
        Assert.Equal("certificate-revoked", trust.Verify(renewed).Code);
    }

    [Fact]
    public void A_key_that_others_can_read_is_refused()
    {
        Create("a");
        var key = Path.Combine(Pki("a"), "host.key");
        File.SetUnixFileMode(key, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead);
        var refusal = Assert.Throws<GodwitException>(() => Create("a"));
        Assert.Equal("key-mode", refusal.Code);
        Assert.Contains("0640", refusal.Message, StringComparison.Ordinal);
        Assert.Contains($"chmod 600 {key}", refusal.Remedy, StringComparison.Ordinal);
    }

    [Fact]
    public void A_damaged_key_or_certificate_and_another_name_are_refused()
    {
        Create("a");
        Assert.Equal("certificate-host-mismatch", Assert.Throws<GodwitException>(
            () => ClusterTrust.LoadOrCreate(Pki("a"), "b", "10.0.0.1", _clock)).Code);
        var chain = Path.Combine(Pki("a"), "host.pem");
        var text = File.ReadAllText(chain);
        File.WriteAllText(chain, text[..(text.Length / 2)]);
        Assert.Equal("certificate-broken", Assert.Throws<GodwitException>(() => Create("a")).Code);
        File.WriteAllText(chain, text);
        File.WriteAllText(Path.Combine(Pki("a"), "host.key"), "nothing");
        Assert.Equal("key-broken", Assert.Throws<GodwitException>(() => Create("a")).Code);
    }

    [Fact]
    public void A_certificate_for_another_key_is_not_installed()
    {
        var (a, b) = (Create("a"), Create("b"));
        var before = a.Identity.Sha256;
        Assert.Equal("certificate-broken", Assert.Throws<GodwitException>(
            () => a.Install(
                X509CertificateLoader.LoadCertificate(b.Identity.Certificate.RawData), b.Identity.Authority)).Code);
        Assert.Equal(before, Create("a").Identity.Sha256);
    }

    [Fact]
    public void A_token_says_all_of_itself_on_one_line()
    {
        var token = JoinToken.Create("a", "[fd00::1]:7843", new string('0', 64));
        Assert.Equal(token, JoinToken.Parse(token + "\n"));
        Assert.DoesNotContain(' ', token.ToString());
        Assert.NotEqual(token.Secret, JoinToken.Create("a", "[fd00::1]:7843", new string('0', 64)).Secret);
        Assert.Equal(64, JoinToken.Hash(token.Secret).Length);
    }

    [Fact]
    public void A_damaged_token_is_malformed_and_nothing_worse()
    {
        var token = JoinToken.Create("a", "10.0.0.1:7843", new string('a', 64)).ToString();
        Gen.Select(Gen.Int[0, token.Length - 1], Gen.Char).Sample((index, character) =>
        {
            var damaged = token[..index] + character + token[(index + 1)..];
            try
            {
                // Another secret, name or address is for the other host to refuse; the shape is still that of a token.
                return JoinToken.Parse(damaged).ToString() == damaged.Trim();
            }
            catch (GodwitException exception)
            {
                return exception.Code == "token-malformed";
            }
        });
        for (var length = 0; length < token.Length; length++)
        {
            Assert.Equal(
                "token-malformed",
                Assert.Throws<GodwitException>(() => JoinToken.Parse(token[..length])).Code);
        }
    }
}
