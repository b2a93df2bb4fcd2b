using System.Text.Json.Nodes;
using Godwit.Pages;

namespace Godwit.Host.Qemu;

/// <summary>One running QEMU process and its monitor.</summary>
public sealed partial class QemuMachine : IAsyncDisposable
{
    public required MachineContract Contract { get; init; }
    public required int ProcessId { get; init; }

    /// <summary>QEMU's version, for example 10.0.2.</summary>
    public required Version Version { get; init; }

    /// <summary>Runs a QMP command and gives its <c>return</c> value.</summary>
    /// <exception cref="QmpException">QEMU refused; carries its class and description.</exception>
    public Task<JsonNode?> ExecuteAsync(string command, JsonObject? arguments, CancellationToken cancellationToken) =>
        throw new NotImplementedException();

    /// <summary>Every QMP event, in order, on the reader's thread; handlers must not block.</summary>
    public event Action<QmpEvent>? EventReceived;

    /// <summary>Ends when the process has ended, however it did.</summary>
    public Task Exited => throw new NotImplementedException();

    /// <summary>
    /// Maps the guest's RAM into this process when its contract says shared memory: QEMU's name of the block and the
    /// mapping. Empty for private memory. The caller disposes the mappings before the machine.
    /// </summary>
    public IReadOnlyList<MappedBlock> MapMemory() => throw new NotImplementedException();

    public ValueTask DisposeAsync() { EventReceived?.Invoke(null!); return default; }
}

/// <param name="ReceivedTimestamp">Stopwatch timestamp at which the event was read.</param>
public sealed record QmpEvent(string Name, JsonObject? Data, long ReceivedTimestamp);

public sealed class QmpException(string errorClass, string description) : Exception(description)
{
    public string ErrorClass { get; } = errorClass;
}

/// <summary>A RAM block of the guest, mapped shared into this process.</summary>
public sealed class MappedBlock : BlockMemory, IDisposable
{
    public required string Name { get; init; }
    public override long Length => throw new NotImplementedException();
    public override ReadOnlySpan<byte> Read(PageNumber page) => throw new NotImplementedException();
    public override void Write(PageNumber page, ReadOnlySpan<byte> content) => throw new NotImplementedException();
    public void Dispose() { }
}
