using System.Net;
using System.Net.Security;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Microsoft.Extensions.Logging;

namespace Godwit.Host.Transfers;

/// <summary>Runs one outgoing migration: QEMU's stream in, pages and control messages out.</summary>
/// <remarks>
/// Returns with the guest either running at the destination (<see cref="MigrationOutcome.Completed"/>; the source's
/// QEMU is then in postmigrate and the caller ends it) or running here, or unsettled.
/// </remarks>
public sealed class SourceTransfer(
    QemuMachine machine, TransferTerms terms, IPEndPoint destination, SslClientAuthenticationOptions tls,
    string runtimeDirectory, ILogger logger)
{
    /// <summary>The newest state; safe from any thread.</summary>
    public MigrationSnapshot Snapshot { get; private set; } = new();

    /// <summary>Raised on a change of phase or round and about four times a second; handlers must not block.</summary>
    public event Action<MigrationSnapshot>? Changed;

    /// <summary>Runs to the end; failures are outcomes, not exceptions.</summary>
    public Task<MigrationSnapshot> RunAsync(CancellationToken shutdown) =>
        throw new NotImplementedException($"{machine} {terms} {destination} {tls} {runtimeDirectory} {logger} {Changed}");

    /// <summary>Asks for an end before the commit; false if the commit has been made already.</summary>
    public bool Cancel() => throw new NotImplementedException();
}

/// <summary>Runs one incoming migration into a QEMU that waits with <c>-incoming defer -S</c>.</summary>
public sealed class DestinationTransfer(
    QemuMachine machine, TransferTerms terms, string runtimeDirectory,
    IReadOnlyList<AnnouncedInterface> interfaces, ILogger logger)
{
    /// <summary>
    /// Completed: the guest runs here. Otherwise it never will and the caller ends the QEMU. Lanes reach this transfer
    /// through <see cref="LaneListener.Expect"/>.
    /// </summary>
    public Task<MigrationSnapshot> RunAsync(CancellationToken shutdown) =>
        throw new NotImplementedException($"{machine} {terms} {runtimeDirectory} {interfaces} {logger}");

    /// <summary>Ends a transfer that was never committed; idempotent.</summary>
    public void Abandon(string reason) => throw new NotImplementedException();
}

/// <summary>An interface to announce at the instant of resume.</summary>
public sealed record AnnouncedInterface(string Bridge, string Tap, string Mac, IReadOnlyList<string> Addresses);

/// <summary>Accepts lanes over mutual TLS and hands each to the transfer whose ticket it presents.</summary>
public sealed class LaneListener(IPEndPoint endpoint, Func<SslServerAuthenticationOptions> tls, ILogger logger) : IAsyncDisposable
{
    /// <summary>Port actually bound.</summary>
    public int Port => throw new NotImplementedException($"{endpoint} {tls} {logger}");
    public void Start() => throw new NotImplementedException();
    /// <summary>Lanes that present the transfer's ticket go to it from now on.</summary>
    public void Expect(DestinationTransfer transfer) => throw new NotImplementedException();
    public ValueTask DisposeAsync() => default;
}
