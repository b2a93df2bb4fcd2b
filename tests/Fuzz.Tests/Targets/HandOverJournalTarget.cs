using System.Buffers.Binary;
using System.Numerics;
using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Fuzz.Tests.Targets;

/// <summary>A hand-over journal as a crash, a bad disk or an editor may have left it.</summary>
internal static class HandOverJournalTarget
{
    private const int HeaderBytes = 24;

    public static bool Fuzz(ReadOnlySpan<byte> bytes)
    {
        // Few changes get past a checksum: the same records with good ones are read too.
        Read(Sealed(bytes));
        return Read(bytes.ToArray());
    }

    private static bool Read(byte[] content)
    {
        var file = new Memory(content);
        HandOverJournal journal;
        try
        {
            journal = HandOverJournal.Open(file, Guid.Empty);
        }
        catch (GodwitException e) when (e.Code is "journal-broken" or "journal-newer")
        {
            return false;
        }

        HandOverRecord[] read = [.. journal.Records];
        Require.That(HandOverJournal.Open(file, Guid.Empty).Records.SequenceEqual(read), "it reads the same again");
        journal.Compact();
        HandOverJournal compacted = HandOverJournal.Open(file, Guid.Empty);
        Require.That(compacted.Identity == journal.Identity, "compaction keeps the identity");
        Require.That(
            compacted.Records.SequenceEqual(read.Where(record => record.IsNeeded)),
            "compaction keeps every record that is needed, and no other");
        return true;
    }

    // Every frame whose length can be true gets the checksum that makes it count.
    private static byte[] Sealed(ReadOnlySpan<byte> bytes)
    {
        byte[] content = bytes.ToArray();
        for (int at = HeaderBytes; at + 8 <= content.Length;)
        {
            uint length = BinaryPrimitives.ReadUInt32LittleEndian(content.AsSpan(at));
            if (length is 0 or > HandOverJournal.BodyBytesMax || length > content.Length - at - 8)
            {
                break;
            }

            uint crc = BitOperations.Crc32C(~0u, length);
            foreach (byte b in content.AsSpan(at + 8, (int)length))
            {
                crc = BitOperations.Crc32C(crc, b);
            }

            BinaryPrimitives.WriteUInt32LittleEndian(content.AsSpan(at + 4), ~crc);
            at += 8 + (int)length;
        }

        return content;
    }

    private sealed class Memory(byte[] content) : IJournalFile
    {
        private byte[] _content = content;

        public byte[] ReadAll() => _content;

        public void Append(ReadOnlySpan<byte> bytes) => _content = [.. _content, .. bytes];

        public void Replace(ReadOnlySpan<byte> bytes) => _content = bytes.ToArray();
    }
}
