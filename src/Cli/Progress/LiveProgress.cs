using System.Text;
using Godwit.Api.V1;
using Godwit.Cli.Output;
using Spectre.Console;

namespace Godwit.Cli.Progress;

/// <summary>A few lines redrawn in place on a terminal.</summary>
/// <remarks>
/// The block is drawn below whatever was printed and wiped before a note or the end, so that only answers and notes
/// remain in the scroll-back.
/// </remarks>
internal sealed class LiveProgress : IProgressView
{
    private const int BarWidth = 40;

    private readonly IAnsiConsole _console;
    private readonly ProgressState _state = new();
    private readonly string _title;
    private int _lines;

    public LiveProgress(TextWriter error, string title)
    {
        _title = AnswerWriter.Printable(title);
        _console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Ansi = AnsiSupport.Yes,
            Interactive = InteractionSupport.Yes,
            Out = new AnsiConsoleOutput(error),
        });
        _console.Cursor.Hide();
    }

    public void Show(Migration migration)
    {
        _state.Update(migration);
        int width = Math.Max(20, _console.Profile.Width - 1);
        Wipe();
        foreach (string line in Lines())
        {
            // A line that wraps would make the next wipe leave half of it behind.
            string shown = line.Length > width ? line[..width] : line;
            _console.Write(new Text(shown, _lines == 0 ? new Style(decoration: Decoration.Bold) : Style.Plain));
            _console.WriteLine();
            _lines++;
        }
    }

    public void Note(string text)
    {
        Wipe();
        _console.Write(new Text(text));
        _console.WriteLine();
    }

    public void Dispose()
    {
        Wipe();
        _console.Cursor.Show();
    }

    private IEnumerable<string> Lines()
    {
        int filled = (int)(_state.Fraction * BarWidth);
        var bar = new StringBuilder().Append('━', filled).Append('─', BarWidth - filled);
        string where = _state.Phase == MigrationPhase.Copying
            ? Units.Invariant($"copying, round {_state.Round}")
            : Json.Word(_state.Phase);
        yield return $"{_title}  {where}";
        yield return Units.Invariant($"  {bar} {_state.Fraction * 100:0}%  {Units.Duration(_state.ElapsedSeconds)}")
            + $", {_state.Left} left";
        yield return $"  sent {Units.Bytes(_state.SentBytes)}, saved {Units.Bytes(_state.SavedBytes)}"
            + $"; wire {Units.BitsPerSecond(_state.WireBytesPerSecond * 8)}"
            + $", dirty {Units.BytesPerSecond(_state.DirtyBytesPerSecond)}";
        string pause = Units.Invariant(
            $"  pause {_state.ExpectedDowntimeMs} ms expected, {_state.BudgetMs} ms allowed");
        yield return _state.Verdict.Length > 0 ? $"{pause}; {_state.Verdict}" : pause;
    }

    private void Wipe()
    {
        if (_lines > 0)
        {
            _console.Write(new ControlCode(Units.Invariant($"\e[{_lines}F\e[J")));
            _lines = 0;
        }
    }
}
