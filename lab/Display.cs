namespace Godwit.Lab;

/// <summary>What a person watches: lines, and on a terminal one line at the bottom that is drawn anew.</summary>
/// <remarks>
/// With JSON on standard output everything goes to standard error; without a terminal, plain lines only.
/// </remarks>
internal sealed class Display(bool json)
{
    private static readonly TimeSpan _plainEvery = TimeSpan.FromSeconds(1);
    private readonly TextWriter _out = json ? Console.Error : Console.Out;
    private readonly bool _live = json ? !Console.IsErrorRedirected : !Console.IsOutputRedirected;
    private readonly Lock _gate = new();
    private string _drawn = "";
    private long _lastPlain;

    internal void Line(string text)
    {
        lock (_gate)
        {
            Erase();
            _out.WriteLine(text);
            _out.Flush();
        }
    }

    /// <summary>Shows how it stands now. Without a terminal at most one line a second, unless important.</summary>
    internal void Progress(string text, bool important = false)
    {
        lock (_gate)
        {
            if (_live)
            {
                Erase();
                _drawn = Clip(text);
                _out.Write(_drawn);
            }
            else if (important || System.Diagnostics.Stopwatch.GetElapsedTime(_lastPlain) >= _plainEvery)
            {
                _lastPlain = System.Diagnostics.Stopwatch.GetTimestamp();
                _out.WriteLine(text);
            }

            _out.Flush();
        }
    }

    private void Erase()
    {
        if (_drawn.Length > 0)
        {
            _out.Write("\r\e[K");
            _drawn = "";
        }
    }

    private static string Clip(string text)
    {
        int width;
        try
        {
            width = Console.WindowWidth;
        }
        catch (IOException)
        {
            width = 0;
        }

        return width > 20 && text.Length >= width ? text[..(width - 1)] : text;
    }
}
