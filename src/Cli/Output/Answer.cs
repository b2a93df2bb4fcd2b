using System.Text.Json.Nodes;

namespace Godwit.Cli.Output;

/// <summary>How an answer is printed.</summary>
internal enum OutputFormat
{
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// <summary>
/// What a command has to say, once as data and once as text; the writer picks by the format asked for.
/// </summary>
internal sealed class Answer
{
    /// <summary>The stable, machine-readable form: base units, the unit in the field name.</summary>
    public required JsonNode Data { get; init; }

    /// <summary>What <c>-o name</c> prints: names or ids, one a line.</summary>
    public required IReadOnlyList<string> Names { get; init; }

    /// <summary>The form for people, built only if it is printed; the argument is true for wide output.</summary>
    public required Func<bool, IEnumerable<TextBlock>> Text { get; init; }
}

/// <summary>A piece of an answer for people.</summary>
internal abstract record TextBlock;

/// <summary>Rows under headers.</summary>
internal sealed record Table(IReadOnlyList<string> Headers, IReadOnlyList<IReadOnlyList<string>> Rows) : TextBlock;

/// <summary>Names and values, one a line; empty values are left out.</summary>
internal sealed record Fields(IReadOnlyList<(string Name, string Value)> Pairs) : TextBlock;

/// <summary>A sentence.</summary>
internal sealed record Line(string Text) : TextBlock;
