using System.Buffers.Binary;
using System.Numerics;
using System.Text;

namespace Godwit.Migration.HandOver;

/// <summary>A host's durable record of who may run which guest. The format is in docs/formats/hand-over.md.</summary>
/// <remarks>
/// What <see cref="Record"/> returned from is on disk. One thread at a time; the shell serialises every call.
/// </remarks>
public sealed class HandOverJournal
{
    /// <summary>A body is longer than this in no version; a longer one is not believed.</summary>
    public const int BodyBytesMax = 4096;

    private const int FrameBytes = 8;
    private const int HeaderBytes = 24;
    private const byte BodyVersion = 1;
    private const int FixedBodyBytes = 1 + 1 + 16 + 8 + 16;
    private const int NameBytesMax = 64;
    private static readonly UTF8Encoding _utf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    private readonly IJournalFile _file;
    private readonly Dictionary<string, HandOverRecord> _last = new(StringComparer.Ordinal);
    // Migrations in the order of their newest records.
    private readonly List<string> _order = [];
    private bool _failed;

    private HandOverJournal(IJournalFile file, Guid identity)
    {
        _file = file;
        Identity = identity;
    }

    private static ReadOnlySpan<byte> Magic => "GODWITJ1"u8;

    /// <summary>Tells this journal from any other one, and from one that took its place.</summary>
    public Guid Identity { get; }

    /// <summary>
    /// False while a record may stand at the file's end that nobody was told of.
    /// </summary>
    public bool IsReliable => !_failed;

    /// <summary>The newest record of each migration, in the order in which they were written.</summary>
    public IEnumerable<HandOverRecord> Records => _order.Select(migration => _last[migration]);

    /// <summary>Reads a journal, or begins one.</summary>
    /// <param name="newIdentity">Of the journal, if it is new.</param>
    /// <exception cref="GodwitException">
    /// <c>journal-broken</c>: records that had been acknowledged cannot be read. <c>journal-newer</c>.
    /// <c>journal-unwritable</c>: it could not be begun, or a torn end could not be cut off.
    /// </exception>
    public static HandOverJournal Open(IJournalFile file, Guid newIdentity)
    {
        byte[] content = file.ReadAll();
        if (content.Length == 0)
        {
            Replace(file, Header(newIdentity));
            return new HandOverJournal(file, newIdentity);
        }

        if (content.Length < HeaderBytes || !content.AsSpan(0, Magic.Length).SequenceEqual(Magic))
        {
            throw Broken("it does not begin as one");
        }

        var journal = new HandOverJournal(file, new Guid(content.AsSpan(Magic.Length, 16)));
        int at = HeaderBytes;
        while (at < content.Length && TryReadFrame(content.AsSpan(at), out ReadOnlySpan<byte> body))
        {
            journal.Take(Decode(body));
            at += FrameBytes + body.Length;
        }

        if (at < content.Length)
        {
            // The last append was cut short by a crash, before anybody was told of it. Behind anything else that
            // cannot be read there would be records.
            for (int offset = at + 1; offset < content.Length; offset++)
            {
                if (TryReadFrame(content.AsSpan(offset), out _))
                {
                    throw Broken($"byte {at} is damaged and good records follow at byte {offset}");
                }
            }

            Replace(file, content.AsSpan(0, at));
        }

        return journal;
    }

    /// <summary>The newest record of a migration, or null.</summary>
    public HandOverRecord? Find(string migration) => _last.GetValueOrDefault(migration);

    /// <summary>What decides about a guest: a hand-over that is not settled, or else the newest record.</summary>
    /// <remarks>Epochs do not tell which is newer: each move that is refused has the same as the next one.</remarks>
    public HandOverRecord? OfGuest(Guid guest)
    {
        HandOverRecord[] records = [.. Records.Where(record => record.Guest == guest)];
        return records.LastOrDefault(record => record.IsOutstanding) ?? records.LastOrDefault();
    }

    /// <summary>Writes a record; durable when this returns.</summary>
    /// <exception cref="InvalidOperationException">It contradicts what was recorded before.</exception>
    /// <exception cref="GodwitException">
    /// <c>journal-unwritable</c>: nothing has been promised, and nothing else is recorded before the file could be put
    /// back as it was.
    /// </exception>
    public void Record(HandOverRecord record)
    {
        HandOverState? last = Find(record.Migration)?.State;
        if (!HandOverRecord.MayFollow(last, record.State))
        {
            throw new InvalidOperationException(
                $"Migration {record.Migration} was recorded as {last}; {record.State} cannot follow.");
        }

        if (!TryPutBack())
        {
            throw Unwritable("an earlier write failed, and what it left cannot be taken away", null);
        }

        byte[] frame = Encode(record);
        try
        {
            _file.Append(frame);
        }
        catch (IOException e)
        {
            _failed = true;
            TryPutBack();
            throw Unwritable(e.Message.TrimEnd('.'), e);
        }

        Take(record);
    }

    /// <summary>Puts the file back as it was before the write that failed, if one did.</summary>
    /// <returns>What <see cref="IsReliable"/> is then.</returns>
    /// <remarks>
    /// The record may be there or not. A restart that found it would act on what everybody else believes never was.
    /// </remarks>
    public bool TryPutBack()
    {
        if (!_failed)
        {
            return true;
        }

        try
        {
            _file.Replace(Content(Records));
            _failed = false;
        }
        catch (IOException)
        {
            // The disk is still full, or gone.
        }

        return !_failed;
    }

    /// <summary>Drops the records of migrations that are over, once everything else knows of their ends.</summary>
    public void Compact()
    {
        HandOverRecord[] needed = [.. Records.Where(record => record.IsNeeded)];
        if (needed.Length == _last.Count)
        {
            return;
        }

        Replace(_file, Content(needed));
        _last.Clear();
        _order.Clear();
        Array.ForEach(needed, Take);
    }

    private byte[] Content(IEnumerable<HandOverRecord> records) =>
        [.. Header(Identity), .. records.SelectMany(Encode)];

    private static void Replace(IJournalFile file, ReadOnlySpan<byte> content)
    {
        try
        {
            file.Replace(content);
        }
        catch (IOException e)
        {
            throw Unwritable(e.Message.TrimEnd('.'), e);
        }
    }

    private void Take(HandOverRecord record)
    {
        _last[record.Migration] = record;
        _order.Remove(record.Migration);
        _order.Add(record.Migration);
    }

    private static byte[] Header(Guid identity) => [.. Magic, .. identity.ToByteArray()];

    private static bool TryReadFrame(ReadOnlySpan<byte> bytes, out ReadOnlySpan<byte> body)
    {
        body = default;
        if (bytes.Length < FrameBytes)
        {
            return false;
        }

        uint length = BinaryPrimitives.ReadUInt32LittleEndian(bytes);
        if (length is 0 or > BodyBytesMax || length > bytes.Length - FrameBytes)
        {
            return false;
        }

        body = bytes.Slice(FrameBytes, (int)length);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]) == Checksum(length, body);
    }

    private static uint Checksum(uint length, ReadOnlySpan<byte> body)
    {
        uint crc = BitOperations.Crc32C(~0u, length);
        foreach (byte b in body)
        {
            crc = BitOperations.Crc32C(crc, b);
        }

        return ~crc;
    }

    private static byte[] Encode(HandOverRecord record)
    {
        byte[] migration = Name(record.Migration);
        byte[] peer = Name(record.Peer);
        byte[] frame = new byte[FrameBytes + FixedBodyBytes + 2 + migration.Length + peer.Length];
        Span<byte> body = frame.AsSpan(FrameBytes);
        body[0] = BodyVersion;
        body[1] = (byte)record.State;
        record.Guest.TryWriteBytes(body[2..]);
        BinaryPrimitives.WriteInt64LittleEndian(body[18..], record.Epoch);
        record.PeerJournal.TryWriteBytes(body[26..]);
        int at = FixedBodyBytes;
        foreach (byte[] name in (byte[][])[migration, peer])
        {
            body[at++] = (byte)name.Length;
            name.CopyTo(body[at..]);
            at += name.Length;
        }

        BinaryPrimitives.WriteUInt32LittleEndian(frame, (uint)body.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(frame.AsSpan(4), Checksum((uint)body.Length, body));
        return frame;
    }

    private static HandOverRecord Decode(ReadOnlySpan<byte> body)
    {
        if (body[0] > BodyVersion)
        {
            throw new GodwitException("journal-newer",
                $"The hand-over journal has records of version {body[0]}; this build reads {BodyVersion}.",
                "Start the newer godwitd that wrote it, and settle its migrations before you go back.");
        }

        int at = FixedBodyBytes;
        if (body.Length > FixedBodyBytes && body[0] == BodyVersion && Enum.IsDefined((HandOverState)body[1])
            && TryReadName(body, ref at, out string migration) && TryReadName(body, ref at, out string peer)
            && at == body.Length)
        {
            return new HandOverRecord(
                (HandOverState)body[1], migration, new Guid(body.Slice(2, 16)), peer,
                BinaryPrimitives.ReadInt64LittleEndian(body[18..]), new Guid(body.Slice(26, 16)));
        }

        throw Broken("a record is whole and says nothing that can be understood");
    }

    private static bool TryReadName(ReadOnlySpan<byte> body, ref int at, out string name)
    {
        name = "";
        if (at >= body.Length || body[at] is 0 or > NameBytesMax || body[at] > body.Length - at - 1)
        {
            return false;
        }

        try
        {
            name = _utf8.GetString(body.Slice(at + 1, body[at]));
        }
        catch (DecoderFallbackException)
        {
            return false;
        }

        at += 1 + body[at];
        return true;
    }

    private static byte[] Name(string name)
    {
        byte[] bytes = _utf8.GetBytes(name);
        return bytes.Length is > 0 and <= NameBytesMax ? bytes
            : throw new ArgumentException($"'{name}' has {bytes.Length} bytes; 1 to {NameBytesMax} are possible.");
    }

    private static GodwitException Broken(string why) => new("journal-broken",
        $"The hand-over journal cannot be trusted: {why}.",
        "Do not delete it: without it two hosts may run one guest. Look at 'godwit vm list' on the other hosts, put "
        + "the file back from a backup, or move it away when no guest of this host is being moved.");

    private static GodwitException Unwritable(string why, Exception? inner) => new("journal-unwritable",
        $"The hand-over journal cannot be written: {why}.",
        "Check free space and the disk under the state directory, then restart godwitd. No guest changes hands before.",
        inner);
}
