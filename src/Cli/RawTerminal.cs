using System.Runtime.InteropServices;

namespace Godwit.Cli;

/// <summary>The terminal in raw mode for as long as this lives: every key goes to the guest, Ctrl-C included.</summary>
/// <remarks>
/// The former settings come back on disposal, at the end of the process and on SIGTERM, SIGHUP and SIGQUIT; only
/// SIGKILL can leave the terminal raw.
/// </remarks>
internal sealed unsafe partial class RawTerminal : IDisposable
{
    private const int StandardInput = 0;
    private const int DrainFirst = 1;  // TCSADRAIN

    // glibc's struct termios has 60 bytes and musl's as many; it is kept and put back unread, so only its size matters.
    private const int TermiosBytes = 256;

    private readonly byte[] _former = new byte[TermiosBytes];
    private readonly List<PosixSignalRegistration> _signals = [];
    private int _restored;

    private RawTerminal()
    {
    }

    /// <summary>Enters raw mode, or returns null if standard input is no terminal.</summary>
    public static RawTerminal? TryEnter()
    {
        var terminal = new RawTerminal();
        byte[] raw = new byte[TermiosBytes];
        // Invariant for both calls: the buffer is pinned for the call and larger than any libc's struct termios.
        fixed (byte* former = terminal._former, changed = raw)
        {
            if (GetAttributes(StandardInput, former) != 0)
            {
                return null;
            }

            terminal._former.CopyTo(raw, 0);
            MakeRaw(changed);
            foreach (var signal in (PosixSignal[])[PosixSignal.SIGTERM, PosixSignal.SIGHUP, PosixSignal.SIGQUIT])
            {
                terminal._signals.Add(PosixSignalRegistration.Create(signal, _ => terminal.Restore()));
            }

            AppDomain.CurrentDomain.ProcessExit += terminal.OnExit;
            if (SetAttributes(StandardInput, DrainFirst, changed) != 0)
            {
                terminal.Dispose();
                return null;
            }
        }

        return terminal;
    }

    public void Dispose()
    {
        Restore();
        AppDomain.CurrentDomain.ProcessExit -= OnExit;
        foreach (var registration in _signals)
        {
            registration.Dispose();
        }

        _signals.Clear();
    }

    private void OnExit(object? sender, EventArgs arguments) => Restore();

    private void Restore()
    {
        if (Interlocked.Exchange(ref _restored, 1) == 0)
        {
            // Invariant as above: these are the bytes that tcgetattr filled in.
            fixed (byte* former = _former)
            {
                _ = SetAttributes(StandardInput, DrainFirst, former);
            }
        }
    }

    [LibraryImport("libc", EntryPoint = "tcgetattr")]
    private static partial int GetAttributes(int descriptor, byte* termios);

    [LibraryImport("libc", EntryPoint = "tcsetattr")]
    private static partial int SetAttributes(int descriptor, int when, byte* termios);

    [LibraryImport("libc", EntryPoint = "cfmakeraw")]
    private static partial void MakeRaw(byte* termios);
}
