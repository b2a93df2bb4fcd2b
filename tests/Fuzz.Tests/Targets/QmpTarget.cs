using System.Text;
using System.Text.Json.Nodes;
using Godwit.Host.Qemu;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>QMP replies: a message can be looked into everywhere, however the bytes were cut.</summary>
internal static class QmpTarget
{
    /// <returns>Whether there was a message.</returns>
    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        string whole = Outcome(bytes, bytes.Length, 1);
        int piece = Math.Min(bytes.Length, 1 + (bytes.IsEmpty ? 0 : bytes[^1] % 61));
        Require.That(whole == Outcome(bytes, piece, piece), $"pieces of {piece} give the same messages");
        return whole.Length > 0;
    }

    /// <summary>All that came of the bytes, in a first piece and then equal ones.</summary>
    public static string Outcome(ReadOnlySpan<byte> bytes, int first, int then)
    {
        var reader = new QmpReader();
        var messages = new StringBuilder();
        Take(reader, bytes[..first], messages);
        for (int at = first; at < bytes.Length; at += then)
        {
            Take(reader, bytes.Slice(at, Math.Min(then, bytes.Length - at)), messages);
        }

        return messages.ToString();
    }

    private static void Take(QmpReader reader, ReadOnlySpan<byte> piece, StringBuilder messages)
    {
        reader.Feed(piece);
        while (reader.TryTake(out JsonObject message))
        {
            messages.Append(LookInto(message)).Append('\n');
        }
    }

    // As the daemon does: by name, by index, and as text, number or truth.
    private static string LookInto(JsonNode? node) => node switch
    {
        JsonObject all => string.Concat(all.Select(member => $"{member.Key}:{LookInto(all[member.Key])},")),
        JsonArray all => string.Concat(all.Select(LookInto)),
        JsonValue value when value.TryGetValue(out string? text) => text,
        JsonValue value when value.TryGetValue(out long number) => $"{number}",
        JsonValue value when value.TryGetValue(out bool truth) => $"{truth}",
        _ => "?",
    };
}
