using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Godwit.Cli.Output;

/// <summary>
/// The same data as the JSON form, written as YAML; every string that another type could claim is quoted.
/// </summary>
internal static partial class YamlText
{
    public static void Write(TextWriter output, JsonNode data)
    {
        var emitter = new Emitter(output, new EmitterSettings(2, int.MaxValue, false, 1024, false, true, "\n", true));
        emitter.Emit(new StreamStart());
        emitter.Emit(new DocumentStart(null, null, true));
        Emit(emitter, data);
        emitter.Emit(new DocumentEnd(true));
        emitter.Emit(new StreamEnd());
    }

    private static void Emit(Emitter emitter, JsonNode? node)
    {
        switch (node)
        {
            case null:
                emitter.Emit(new Scalar("null"));
                break;
            case JsonObject map:
                emitter.Emit(
                    new MappingStart(null, null, true, map.Count == 0 ? MappingStyle.Flow : MappingStyle.Block));
                foreach (var (name, value) in map)
                {
                    emitter.Emit(Text(name));
                    Emit(emitter, value);
                }

                emitter.Emit(new MappingEnd());
                break;
            case JsonArray list:
                emitter.Emit(new SequenceStart(
                    null, null, true, list.Count == 0 ? SequenceStyle.Flow : SequenceStyle.Block));
                foreach (var value in list)
                {
                    Emit(emitter, value);
                }

                emitter.Emit(new SequenceEnd());
                break;
            case JsonValue value when value.GetValueKind() == JsonValueKind.String:
                emitter.Emit(Text(value.GetValue<string>()));
                break;
            default:
                emitter.Emit(new Scalar(node.ToJsonString()));
                break;
        }
    }

    private static Scalar Text(string text)
    {
        bool plain = PlainText().IsMatch(text) && !Reserved.Contains(text.ToLower(CultureInfo.InvariantCulture));
        return new Scalar(null, null, text, plain ? ScalarStyle.Plain : ScalarStyle.DoubleQuoted, plain, !plain);
    }

    private static readonly HashSet<string> Reserved = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];

    [GeneratedRegex("^[A-Za-z/][A-Za-z0-9/._-]*$")]
    private static partial Regex PlainText();
}
