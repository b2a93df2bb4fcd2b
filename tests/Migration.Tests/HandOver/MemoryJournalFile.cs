using Godwit.Migration.HandOver;

namespace Godwit.Migration.Tests.HandOver;

/// <summary>A journal's file in memory, which can fail and tear its last append.</summary>
internal sealed class MemoryJournalFile(byte[]? content = null) : IJournalFile
{
    private byte[] _content = content ?? [];

    public byte[] Content => _content;

    /// <summary>Bytes of the next append that reach the disk before it fails; negative for no failure.</summary>
    public int TearNextAppendAt { get; set; } = -1;

    public byte[] ReadAll() => [.. _content];

    public void Append(ReadOnlySpan<byte> bytes)
    {
        if (TearNextAppendAt >= 0)
        {
            _content = [.. _content, .. bytes[..Math.Min(TearNextAppendAt, bytes.Length)]];
            TearNextAppendAt = -1;
            throw new IOException("No space left on device.");
        }

        _content = [.. _content, .. bytes];
    }

    public MemoryJournalFile Copy() => new([.. _content]);

    public bool ReplaceFails { get; set; }

    public void Replace(ReadOnlySpan<byte> bytes) =>
        _content = ReplaceFails ? throw new IOException("No space left on device.") : bytes.ToArray();
}
