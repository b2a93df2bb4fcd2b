namespace Godwit.Migration.HandOver;

/// <summary>The file under a hand-over journal.</summary>
public interface IJournalFile
{
    /// <summary>Everything in it; empty if it is new.</summary>
    byte[] ReadAll();

    /// <summary>Adds bytes at its end; they are durable when this returns.</summary>
    /// <exception cref="IOException">They may be there or not, whole or in part.</exception>
    void Append(ReadOnlySpan<byte> bytes);

    /// <summary>Puts a new content in place of the old one: after a crash one of the two is there, whole.</summary>
    /// <exception cref="IOException">The old content stands.</exception>
    void Replace(ReadOnlySpan<byte> bytes);
}
