using System.Text;

namespace Godwit.House.Tests;

/// <summary>C# with everything that is not code blanked out, line by line, so that rules speak of code alone.</summary>
internal static class CSharpText
{
    public static string CodeOnly(string text)
    {
        var code = new StringBuilder(text.Length);
        int i = 0;
        while (i < text.Length)
        {
            int end = EndOfNonCode(text, i);
            if (end == i)
            {
                code.Append(text[i++]);
                continue;
            }

            for (; i < end; i++)
            {
                code.Append(text[i] == '\n' ? '\n' : ' ');
            }
        }

        return code.ToString();
    }

    // Where the comment or literal that begins here ends; the same place if none begins. The holes of an interpolated
    // string count as text, so a rule may miss a name there; a literal inside a hole counts as code.
    private static int EndOfNonCode(string text, int at)
    {
        var rest = text.AsSpan(at);
        if (rest.StartsWith("//"))
        {
            return After(text, at, "\n", includesEnd: false);
        }

        if (rest.StartsWith("/*"))
        {
            return After(text, at + 2, "*/", includesEnd: true);
        }

        if (text[at] == '\'')
        {
            int end = at + 1;
            while (end < text.Length && text[end] != '\'' && text[end] != '\n')
            {
                end += text[end] == '\\' ? 2 : 1;
            }

            return Math.Min(end + 1, text.Length);
        }

        if (text[at] != '"')
        {
            return at;
        }

        int quotes = 0;
        while (at + quotes < text.Length && text[at + quotes] == '"')
        {
            quotes++;
        }

        if (quotes >= 3)
        {
            return After(text, at + quotes, new string('"', quotes), includesEnd: true);
        }

        bool verbatim = at > 0 && (text[at - 1] == '@' || (at > 1 && text[at - 1] == '$' && text[at - 2] == '@'));
        int close = at + 1;
        while (close < text.Length && (verbatim || text[close] != '\n'))
        {
            if (text[close] == '"')
            {
                if (!verbatim || close + 1 >= text.Length || text[close + 1] != '"')
                {
                    break;
                }

                close++;
            }
            else if (text[close] == '\\' && !verbatim)
            {
                close++;
            }

            close++;
        }

        return Math.Min(close + 1, text.Length);
    }

    private static int After(string text, int from, string mark, bool includesEnd)
    {
        int end = text.IndexOf(mark, from, StringComparison.Ordinal);
        return end < 0 ? text.Length : includesEnd ? end + mark.Length : end;
    }
}
