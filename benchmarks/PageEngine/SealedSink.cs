using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Godwit.PageEngine;

/// <summary>The sending end of TLS 1.3, as hosts speak it, whose records go nowhere: what sealing costs.</summary>
internal static class SealedSink
{
    internal static SslStream Open()
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using X509Certificate2 certificate = new CertificateRequest("CN=sink", key, HashAlgorithmName.SHA256)
            .CreateSelfSigned(DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1));
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var client = new TcpClient();
        client.Connect((IPEndPoint)listener.LocalEndpoint);
        using TcpClient accepted = listener.AcceptTcpClient();
        using var server = new SslStream(accepted.GetStream());
        var drain = new Drain(client.GetStream());
        var sender = new SslStream(drain);
        Task hello = server.AuthenticateAsServerAsync(new SslServerAuthenticationOptions
        {
            ServerCertificate = certificate,
            EnabledSslProtocols = System.Security.Authentication.SslProtocols.Tls13,
        });
        sender.AuthenticateAsClient(new SslClientAuthenticationOptions
        {
            TargetHost = "sink",
            RemoteCertificateValidationCallback = (_, given, _, _) => certificate.Equals(given),
        });
        hello.Wait();
        drain.IsOpen = true;
        return sender;
    }

    /// <summary>A stream that takes what is written to it away once it is open.</summary>
    private sealed class Drain(Stream inner) : Stream
    {
        public bool IsOpen { get; set; }

        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override void Flush()
        {
        }

        public override int Read(byte[] buffer, int offset, int count) => inner.Read(buffer, offset, count);

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            if (!IsOpen)
            {
                inner.Write(buffer);
            }
        }

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();
    }
}
