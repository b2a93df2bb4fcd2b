using Godwit.Api.V1;

namespace Godwit.Cli.Progress;

/// <summary>How far a hoard is, on standard error: one line redrawn on a terminal, some lines elsewhere.</summary>
internal sealed class HoardLine(Terminal terminal, bool quiet, TimeProvider clock) : IDisposable
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(3);
    private long? _last;
    private bool _drawn;

    public void Show(HoardProgress progress)
    {
        if (quiet || progress.Ended)
        {
            return;
        }

        if (terminal.CanRedraw)
        {
            terminal.Error.Write($"\r\e[K{Text(progress)}");
            terminal.Error.Flush();
            _drawn = true;
        }
        else if (_last is null || clock.GetElapsedTime(_last.Value) >= Interval)
        {
            _last = clock.GetTimestamp();
            terminal.Error.WriteLine(Text(progress));
        }
    }

    public void Dispose()
    {
        if (_drawn)
        {
            terminal.Error.Write("\r\e[K");
            terminal.Error.Flush();
        }
    }

    internal static string Text(HoardProgress progress)
    {
        string time = Units.Duration(progress.TotalSeconds);
        return progress.HoardedBytes == 0
            ? $"{time,8}  looking  {Units.Bytes(progress.HeldBytes)} of {Units.Bytes(progress.NeededBytes)} is here"
            : Units.Invariant($"{time,8}  {progress.HoardedBytes * 100.0 / progress.WantedBytes,4:0}%  hoarded ")
                + $"{Units.Bytes(progress.HoardedBytes)} of {Units.Bytes(progress.WantedBytes)}  "
                + $"fetched {Units.Bytes(progress.FetchedBytes)}";
    }
}
