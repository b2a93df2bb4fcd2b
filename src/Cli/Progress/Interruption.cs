using System.Runtime.InteropServices;
using System.Threading.Channels;

namespace Godwit.Cli.Progress;

/// <summary>Ctrl-C and a termination request as something to await instead of an end in the middle of a move.</summary>
internal interface IInterruption
{
    /// <summary>Completes at the next interruption; true if it came from the keyboard.</summary>
    Task<bool> NextAsync();
}

/// <summary>The interruptions that reach this process while it exists; none is lost between two waits.</summary>
internal sealed class SignalInterruption : IInterruption, IDisposable
{
    private readonly Channel<bool> _signals = Channel.CreateBounded<bool>(
        new BoundedChannelOptions(4) { FullMode = BoundedChannelFullMode.DropWrite });

    private readonly PosixSignalRegistration _interrupt;
    private readonly PosixSignalRegistration _terminate;

    public SignalInterruption()
    {
        _interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, context => Take(context, keyboard: true));
        _terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, context => Take(context, keyboard: false));
    }

    public Task<bool> NextAsync() => _signals.Reader.ReadAsync().AsTask();

    public void Dispose()
    {
        _interrupt.Dispose();
        _terminate.Dispose();
    }

    private void Take(PosixSignalContext context, bool keyboard)
    {
        context.Cancel = true;
        _signals.Writer.TryWrite(keyboard);
    }
}
