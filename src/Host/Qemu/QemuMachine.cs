using System.Net.Sockets;
using System.Text.Json.Nodes;
using Godwit.Host.Network;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

/// <summary>One running QEMU process and its monitor.</summary>
/// <remarks>
/// The process does not depend on this one: it has a session of its own, writes to its own log and runs on when the
/// daemon ends. <see cref="DisposeAsync"/> therefore only lets go of it, and <see cref="AdoptAsync"/> finds it again.
/// When the process ends, its TAP devices and sockets are removed before <see cref="Exited"/> does.
/// </remarks>
public sealed partial class QemuMachine : IAsyncDisposable
{
    private const string HeldStream = "godwit-stream";
    private readonly QemuProcess _process;
    private readonly QmpClient _monitor;
    private readonly MachineFiles _files;
    private readonly CancellationTokenSource _disposing;
    private bool _isDisposed;
    private event Action<QmpEvent>? Handlers;

    private QemuMachine(
        MachineContract contract, MachineFiles files, QemuProcess process, QmpClient monitor,
        IReadOnlyList<GuestInterface> interfaces)
    {
        Contract = contract;
        Interfaces = interfaces;
        _files = files;
        _process = process;
        _monitor = monitor;
        _disposing = new CancellationTokenSource();
        _monitor.EventReceived += qmpEvent => Handlers?.Invoke(qmpEvent);
        Exited = CleanUpAfterExitAsync(_disposing.Token);
    }

    public MachineContract Contract { get; }

    public int ProcessId => _process.Id;

    /// <summary>QEMU's version, for example 10.0.2.</summary>
    public Version Version => _monitor.Version;

    /// <summary>The guest's interfaces, in the contract's order, with their TAP devices.</summary>
    public IReadOnlyList<GuestInterface> Interfaces { get; }

    /// <summary>Unix socket of the serial console; one client at a time.</summary>
    public string ConsoleSocket => _files.ConsoleSocket;

    /// <summary>Everything the serial console has ever printed on this host.</summary>
    public string ConsoleLog => _files.ConsoleLog;

    /// <summary>
    /// Ends when the process has ended, however it did, and its devices are removed. Never after DisposeAsync.
    /// </summary>
    public Task Exited { get; }

    /// <summary>Every QMP event, in order, on the reader's thread; handlers must not block.</summary>
    public event Action<QmpEvent>? EventReceived
    {
        add => Handlers += value;
        remove => Handlers -= value;
    }

    /// <summary>Runs a QMP command and gives its <c>return</c> value.</summary>
    /// <exception cref="QmpException">QEMU refused; carries its class and description.</exception>
    /// <exception cref="GodwitException">
    /// <c>qemu-silent</c>: no answer within 30 s; <c>qemu-ended</c>: the process is gone.
    /// </exception>
    public Task<JsonNode?> ExecuteAsync(string command, JsonObject? arguments, CancellationToken cancellationToken) =>
        _monitor.ExecuteAsync(command, arguments, QmpClient.CommandTimeout, cancellationToken);

    /// <summary>
    /// The same for the few commands (<c>yank</c>, <c>migrate-pause</c>...) that run past a busy QEMU.
    /// </summary>
    public Task<JsonNode?> ExecuteOutOfBandAsync(
        string command, JsonObject? arguments, CancellationToken cancellationToken) =>
        _monitor.ExecuteOutOfBandAsync(command, arguments, QmpClient.CommandTimeout, cancellationToken);

    /// <summary>
    /// Keeps QEMU's outgoing stream open for as long as QEMU lives, whatever becomes of this process: QEMU gets our end
    /// of it too. A QEMU whose stream breaks resumes the guest by itself, which after a commit would be a second copy.
    /// </summary>
    /// <param name="stream">Our end of QEMU's migration stream.</param>
    public Task HoldStreamAsync(Socket stream, CancellationToken cancellationToken) => _monitor.ExecuteAsync(
        "getfd", new JsonObject { ["fdname"] = HeldStream }, stream.SafeHandle, QmpClient.CommandTimeout,
        cancellationToken);

    /// <summary>Undoes <see cref="HoldStreamAsync"/>; does nothing if nothing is held.</summary>
    public async Task ReleaseStreamAsync(CancellationToken cancellationToken)
    {
        try
        {
            await ExecuteAsync("closefd", new JsonObject { ["fdname"] = HeldStream }, cancellationToken);
        }
        catch (QmpException)
        {
            // There is none of this name.
        }
    }

    /// <summary>
    /// QEMU's run state, for example <c>running</c>, <c>paused</c>, <c>inmigrate</c>, <c>postmigrate</c>.
    /// </summary>
    public async Task<string> QueryStateAsync(CancellationToken cancellationToken)
    {
        JsonNode? status = await ExecuteAsync("query-status", null, cancellationToken);
        return status?["status"]?.GetValue<string>() ?? "unknown";
    }

    /// <summary>
    /// Opens the guest's RAM when its contract says shared memory; empty for private memory. The caller disposes it.
    /// Video memory and ROMs are never shared; QEMU's stream carries them.
    /// </summary>
    /// <exception cref="GodwitException"><c>memory-file</c>.</exception>
    public IReadOnlyList<GuestMemory> OpenMemory() => Contract.SharedMemory
        ? [GuestMemory.Open(ProcessId, QemuCommandLine.MemoryBlock, Contract.MemoryBytes)]
        : [];

    /// <summary>Features of the guest's CPU model that it has never had, because this host does not.</summary>
    /// <exception cref="GodwitException"><c>qemu-silent</c> or <c>qemu-ended</c>.</exception>
    public Task<IReadOnlyList<string>> FeaturesMissingAsync(CancellationToken cancellationToken) =>
        QemuInstallation.ReadFeaturesMissingAsync(_monitor, cancellationToken);

    /// <summary>Silences the guest's ports, or lets them speak again.</summary>
    /// <exception cref="GodwitException"><c>tap-failed</c>.</exception>
    public void SetLinks(bool up)
    {
        foreach (GuestInterface guest in Interfaces)
        {
            guest.Tap.SetLink(up);
        }
    }

    /// <summary>Presses the guest's power button and waits for QEMU to end.</summary>
    /// <returns>False if the guest had not powered down in time; it runs on.</returns>
    public async Task<bool> PowerDownAsync(TimeSpan timeout, CancellationToken cancellationToken)
    {
        await TryExecuteAsync("system_powerdown", cancellationToken);
        return await WaitForExitAsync(timeout, cancellationToken);
    }

    /// <summary>
    /// Ends QEMU in an orderly way (disks are flushed, the guest is not asked), by force after the timeout.
    /// </summary>
    public async Task QuitAsync(TimeSpan timeout, CancellationToken cancellationToken)
    {
        await TryExecuteAsync("quit", cancellationToken);
        if (!await WaitForExitAsync(timeout, cancellationToken))
        {
            await KillAsync();
        }
    }

    /// <summary>Ends QEMU by force and waits until it and its devices are gone.</summary>
    public async Task KillAsync()
    {
        // Whoever saw it end may have let go of the process already.
        if (!Exited.IsCompleted)
        {
            _process.Kill();
        }

        await Exited;
    }

    private async Task TryExecuteAsync(string command, CancellationToken cancellationToken)
    {
        try
        {
            await _monitor.ExecuteAsync(command, null, TimeSpan.FromSeconds(5), cancellationToken);
        }
        catch (GodwitException)
        {
            // QEMU may end before it answers; whether it did is for the caller to wait for.
        }
    }

    private async Task<bool> WaitForExitAsync(TimeSpan timeout, CancellationToken cancellationToken)
    {
        try
        {
            await Exited.WaitAsync(timeout, cancellationToken);
            return true;
        }
        catch (TimeoutException)
        {
            return false;
        }
    }

    /// <summary>Whether QEMU has ended; one that does not answer is given three seconds to be seen to end.</summary>
    public async Task<bool> HasDiedAsync()
    {
        try
        {
            await ExecuteAsync("query-status", null, CancellationToken.None);
        }
        catch (Exception exception) when (exception is QmpException or GodwitException or IOException
            or TimeoutException or ObjectDisposedException)
        {
            // Its sockets close before its end is known.
            await Task.WhenAny(Exited, Task.Delay(TimeSpan.FromSeconds(3)));
        }

        return Exited.IsCompleted;
    }

    private async Task CleanUpAfterExitAsync(CancellationToken disposing)
    {
        try
        {
            await _process.Exited.WaitAsync(disposing);
        }
        catch (OperationCanceledException)
        {
            // Let go of while it ran: whoever adopts it next cleans up.
            await new TaskCompletionSource().Task;
        }
        foreach (GuestInterface guest in Interfaces)
        {
            TryDelete(guest.Tap);
        }
        _files.RemoveSockets();
    }

    /// <summary>Lets go of the process, which runs on.</summary>
    /// <remarks>Again is nothing: who watches a guest and who receives it may both see it end.</remarks>
    public ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _isDisposed, true))
        {
            return ValueTask.CompletedTask;
        }

        _disposing.Cancel();
        _monitor.Dispose();
        _process.Dispose();
        foreach (GuestInterface guest in Interfaces)
        {
            guest.Tap.Dispose();
        }
        return default;
    }
}
