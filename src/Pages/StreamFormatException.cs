namespace Godwit.Pages;

/// <summary>Bytes that can never be valid. The message names the offset, the value and the limit.</summary>
/// <remarks>Whoever catches it ends the connection; the reader that threw it must not be fed again.</remarks>
public sealed class StreamFormatException : Exception
{
    public StreamFormatException()
    {
    }

    public StreamFormatException(string message)
        : base(message)
    {
    }

    public StreamFormatException(string message, Exception innerException)
        : base(message, innerException)
    {
    }

    /// <summary>A refusal at a byte offset; the offset is put in front of the message.</summary>
    public StreamFormatException(long offset, string message)
        : base($"At byte {offset}: {message}") => Offset = offset;

    /// <summary>Where in the stream or message the refused element begins, in bytes.</summary>
    public long Offset { get; }
}
