using System.Diagnostics;

namespace Godwit.Simulation;

/// <summary>A line on a terminal that says how far it is; nothing where there is none.</summary>
internal sealed class ProgressBar(int total) : IDisposable
{
    private const int Width = 40;
    private readonly Lock _lock = new();
    private readonly bool _isTerminal = !Console.IsErrorRedirected;
    private readonly long _begun = Stopwatch.GetTimestamp();
    private int _highest;

    internal void Advance(int done)
    {
        lock (_lock)
        {
            if (!_isTerminal || done <= _highest)
            {
                return;
            }

            _highest = done;
            int full = (int)((long)Width * done / total);
            double left = Stopwatch.GetElapsedTime(_begun).TotalSeconds * (total - done) / done;
            Console.Error.Write(
                $"\r[{new string('=', full)}{new string(' ', Width - full)}] {done}/{total}, {left:0} s left  ");
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            if (_isTerminal && _highest > 0)
            {
                Console.Error.Write($"\r{new string(' ', Width + 40)}\r");
                _highest = 0;
            }
        }
    }
}
