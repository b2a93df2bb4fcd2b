using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Unicode;

namespace Godwit.Host.Qemu;

/// <summary>Takes apart what QEMU's monitor says: one JSON object a line, cut anywhere.</summary>
/// <remarks>
/// A guest may have taken its QEMU over. A line that is no object, or one that a later look into it would stumble over
/// (a name twice, text that is no Unicode), is passed over; memory is taken for bytes that have come, not for more.
/// </remarks>
internal sealed class QmpReader
{
    internal const int LineBytesMax = 16 << 20;
    private const int RoomBytes = 64 << 10;
    private static readonly JsonDocumentOptions _strict = new() { AllowDuplicateProperties = false };

    private byte[] _buffer = new byte[RoomBytes];
    private int _begin;
    private int _scanned;
    private int _end;

    public void Feed(ReadOnlySpan<byte> bytes)
    {
        if (_end + bytes.Length > _buffer.Length)
        {
            _buffer.AsSpan(_begin, _end - _begin).CopyTo(_buffer);
            _end -= _begin;
            _scanned -= _begin;
            _begin = 0;
        }

        if (_end + bytes.Length > _buffer.Length)
        {
            Array.Resize(ref _buffer, Math.Max(_buffer.Length * 2, _end + bytes.Length));
        }

        bytes.CopyTo(_buffer.AsSpan(_end));
        _end += bytes.Length;
    }

    /// <returns>False when the next line has not wholly come.</returns>
    /// <exception cref="InvalidDataException">A line exceeds <see cref="LineBytesMax"/>.</exception>
    public bool TryTake(out JsonObject message)
    {
        int newline;
        while ((newline = _buffer.AsSpan(_scanned, _end - _scanned).IndexOf((byte)'\n')) >= 0)
        {
            ReadOnlySpan<byte> line = _buffer.AsSpan(_begin, _scanned + newline - _begin);
            _begin = _scanned = _scanned + newline + 1;
            if (Parse(line) is { } parsed)
            {
                message = parsed;
                return true;
            }
        }

        _scanned = _end;
        if (_end - _begin > LineBytesMax)
        {
            throw new InvalidDataException($"a message exceeds {LineBytesMax} bytes");
        }

        message = null!;
        return false;
    }

    private static JsonObject? Parse(ReadOnlySpan<byte> line)
    {
        try
        {
            return HasReadableText(line) ? JsonNode.Parse(line, null, _strict) as JsonObject : null;
        }
        catch (JsonException)
        {
            // QEMU cannot have meant this for us; an answer that is lost so ends in its command's timeout.
            return null;
        }
    }

    // The parser itself looks at a text only when it is asked for it, and would fail then.
    private static bool HasReadableText(ReadOnlySpan<byte> line)
    {
        if (!Utf8.IsValid(line))
        {
            return false;
        }

        Utf8JsonReader reader = new(line);
        while (reader.Read())
        {
            if (reader.ValueIsEscaped)
            {
                try
                {
                    _ = reader.GetString();
                }
                catch (InvalidOperationException)
                {
                    // Half a surrogate pair.
                    return false;
                }
            }
        }

        return true;
    }
}
