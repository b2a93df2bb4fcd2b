using Godwit.Api.V1;

namespace Godwit.Cli.Progress;

/// <summary>Shows a migration as it goes, on standard error.</summary>
internal interface IProgressView : IDisposable
{
    void Show(Migration migration);

    /// <summary>Says something beside the progress, for example a question or a note.</summary>
    void Note(string text);
}

/// <summary>Shows nothing, but still passes notes on: they say what became of a guest.</summary>
internal sealed class QuietProgress(TextWriter error) : IProgressView
{
    public void Show(Migration migration)
    {
    }

    public void Note(string text) => error.WriteLine(text);

    public void Dispose()
    {
    }
}

/// <summary>Plain lines: one at every change of phase or round, and one every few seconds between them.</summary>
internal sealed class LineProgress(TextWriter error, TimeProvider clock) : IProgressView
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(3);

    private readonly ProgressState _state = new();
    private long? _last;

    public void Show(Migration migration)
    {
        bool changed = _state.Update(migration);
        if (changed || _last is null || clock.GetElapsedTime(_last.Value) >= Interval)
        {
            _last = clock.GetTimestamp();
            error.WriteLine(_state.ToLine());
            error.Flush();
        }
    }

    public void Note(string text) => error.WriteLine(text);

    public void Dispose()
    {
    }
}
