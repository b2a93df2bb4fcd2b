using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Godwit.Cli.Output;

/// <summary>Prints an <see cref="Answer"/> in the format asked for.</summary>
/// <remarks>
/// Tables are laid out here and not by the library that draws the live progress: an answer in a pipe must not depend on
/// the width of a terminal, and a listing should not pay for loading it.
/// </remarks>
internal static class AnswerWriter
{
    private static readonly JsonSerializerOptions Indented = new()
    {
        WriteIndented = true,
        IndentSize = 2,
        NewLine = "\n",
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    private static readonly JsonSerializerOptions OneLine = new() { Encoder = Indented.Encoder };

    public static void Write(TextWriter output, Answer answer, OutputFormat format, bool headers)
    {
        switch (format)
        {
            case OutputFormat.Json:
                output.WriteLine(answer.Data.ToJsonString(Indented));
                break;
            case OutputFormat.Yaml:
                YamlText.Write(output, answer.Data);
                break;
            case OutputFormat.Name:
                foreach (string name in answer.Names)
                {
                    output.WriteLine(name);
                }

                break;
            default:
                WriteText(output, answer.Text(format == OutputFormat.Wide), headers);
                break;
        }

        output.Flush();
    }

    /// <summary>One object on one line, as <c>watch -o json</c> prints them.</summary>
    public static void WriteJsonLine(TextWriter output, JsonNode data)
    {
        output.WriteLine(data.ToJsonString(OneLine));
        output.Flush();
    }

    private static void WriteText(TextWriter output, IEnumerable<TextBlock> blocks, bool headers)
    {
        bool first = true;
        foreach (var block in blocks)
        {
            if (!first && block is not Line)
            {
                output.WriteLine();
            }

            first = false;
            switch (block)
            {
                case Line line:
                    output.WriteLine(Printable(line.Text));
                    break;
                case Table table:
                    WriteRows(output, headers ? [table.Headers, .. table.Rows] : table.Rows);
                    break;
                case Fields fields:
                    WriteRows(output, [.. fields.Pairs
                        .Where(pair => pair.Value.Length > 0)
                        .Select(pair => (IReadOnlyList<string>)[pair.Name, pair.Value])]);
                    break;
            }
        }
    }

    private static void WriteRows(TextWriter output, IReadOnlyList<IReadOnlyList<string>> rows)
    {
        var widths = new List<int>();
        foreach (var row in rows)
        {
            for (int column = 0; column < row.Count; column++)
            {
                if (column == widths.Count)
                {
                    widths.Add(0);
                }

                widths[column] = Math.Max(widths[column], Printable(row[column]).Length);
            }
        }

        foreach (var row in rows)
        {
            var line = new StringBuilder();
            for (int column = 0; column < row.Count; column++)
            {
                string cell = Printable(row[column]);
                line.Append(column == row.Count - 1 ? cell : cell.PadRight(widths[column] + 3));
            }

            output.WriteLine(line.ToString().TrimEnd());
        }
    }

    // Names and messages may come from a peer; a control character in one of them must not reach a terminal.
    internal static string Printable(string text)
    {
        return text.Any(char.IsControl)
            ? string.Create(text.Length, text, (span, from) =>
            {
                for (int i = 0; i < span.Length; i++)
                {
                    span[i] = char.IsControl(from[i]) ? ' ' : from[i];
                }
            })
            : text;
    }
}
