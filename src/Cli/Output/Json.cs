using System.Text;
using System.Text.Json.Nodes;

namespace Godwit.Cli.Output;

/// <summary>Pieces of the machine-readable forms that all of them share.</summary>
internal static class Json
{
    /// <summary>A measured value without the noise past its third decimal.</summary>
    public static JsonNode Number(double value) => JsonValue.Create(double.IsFinite(value) ? Math.Round(value, 3) : 0);

    /// <summary>Text, or null when there is none.</summary>
    public static JsonNode? Text(string value) => value.Length == 0 ? null : JsonValue.Create(value);

    /// <summary>Milliseconds since 1970, or null when the thing has not happened.</summary>
    public static JsonNode? UnixMs(long value) => value == 0 ? null : JsonValue.Create(value);

    public static JsonArray Array(IEnumerable<JsonNode?> nodes) => new([.. nodes]);

    public static JsonArray Array(IEnumerable<string> texts) => Array(texts.Select(text => (JsonNode?)text));

    /// <summary>The proto's <c>last_round_ms</c> as the JSON's <c>lastRoundMs</c>.</summary>
    public static string CamelCase(string name)
    {
        var result = new StringBuilder(name.Length);
        bool upper = false;
        foreach (char c in name)
        {
            if (c is '_' or '-')
            {
                upper = result.Length > 0;
                continue;
            }

            result.Append(upper ? char.ToUpperInvariant(c) : c);
            upper = false;
        }

        return result.ToString();
    }

    /// <summary>An enum's value as the JSON and the tables call it: words in lower case, joined by hyphens.</summary>
    public static string Word<T>(T value) where T : struct, Enum
    {
        string name = value.ToString();
        var result = new StringBuilder(name.Length + 4);
        foreach (char c in name)
        {
            if (char.IsUpper(c) && result.Length > 0)
            {
                result.Append('-');
            }

            result.Append(char.ToLowerInvariant(c));
        }

        return result.ToString();
    }

    /// <summary>An instant in the operator's own time zone.</summary>
    public static string LocalTime(long unixMs) => unixMs == 0
        ? ""
        : DateTimeOffset.FromUnixTimeMilliseconds(unixMs).ToLocalTime()
            .ToString("yyyy-MM-dd HH:mm:ss", System.Globalization.CultureInfo.InvariantCulture);
}
