using System.Buffers.Binary;
using Godwit.ChunkStore;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

// What the destination says it can rebuild by itself, and what it then could not.
public sealed partial class SourceEngine
{
    // What the destination has ready comes within a round trip or two and the time its fingerprints take: until then
    // every page sent may be one too many. No longer than this, whatever it promises.
    private static readonly TimeSpan OfferPatience = TimeSpan.FromSeconds(2);

    // A destination whose index is out of date, or that lies, costs a round trip for each page: it is not believed on.
    private const long RefusedMin = 256;
    private const double RefusedShareMax = 0.25;

    /// <summary>
    /// Where a page comes from that goes as what changed in it since the guest left: no offer has it.
    /// </summary>
    public const int ChangedSinceLeft = FingerprintSet.Origins - 1;

    private readonly FingerprintSet _offered;
    private readonly int[] _asksAnswered;
    private readonly long[] _knownPages = new long[FingerprintSet.Origins];
    private long _knownSent;
    private long _refused;
    private long _pagesSinceHeard;
    private long _knownSinceHeard;
    private bool _offersComplete;
    private bool _takesDeltas;
    private bool _keptMemory;
    private volatile bool _believes;

    private bool AwaitsOffers(TimeSpan now) =>
        _believes && !_offersComplete && _rounds.Count == 0 && now - _roundStartedAt < OfferPatience;

    /// <summary>
    /// Where the destination would take a page with this fingerprint from; -1 if it has not said that it can. Safe from
    /// any thread, at any time.
    /// </summary>
    public int OriginOf(ulong fingerprint) => _believes ? _offered.Find(fingerprint) : -1;

    /// <summary>Whether the destination has kept the guest's memory, and may be sent what changed since.</summary>
    public bool TakesChanged => _believes && _keptMemory && !_fetching;

    /// <summary>A lane is about to send a page by its name.</summary>
    /// <param name="origin">What <see cref="OriginOf"/> said, or <see cref="ChangedSinceLeft"/>.</param>
    public void SendsKnown(RamBlock block, PageNumber page, int origin)
    {
        _knownSent++;
        _knownSinceHeard += origin == ChangedSinceLeft ? 0 : 1;
        _knownPages[origin]++;
        _queue!.SetKnown(block.Index, page, origin);
    }

    // Names take more of the processors than of the link: how fast they arrive says nothing of what it carries.
    private bool SentManyNames()
    {
        bool many = 4 * _knownSinceHeard > _pagesSinceHeard;
        _knownSinceHeard = 0;
        _pagesSinceHeard = 0;
        return many;
    }

    private Dictionary<string, long> SavedBytesByReason()
    {
        Dictionary<string, long> saved = _saved.ByReason(_queue?.Superseded ?? 0);
        if (_knownSent > 0)
        {
            foreach (ContentOrigin origin in Enum.GetValues<ContentOrigin>())
            {
                saved[$"known{origin}"] = _knownPages[(int)origin] * (Page.Size - ContentName.Size);
            }
        }

        return saved;
    }

    private void TakeOffer(ControlMessage.InventoryOffer offer)
    {
        _keptMemory |= offer.Origin == ContentOrigin.OwnMemory;
        for (int i = 0; i + Fingerprint.Size <= offer.Fingerprints.Length; i += Fingerprint.Size)
        {
            _offered.Add(
                BinaryPrimitives.ReadUInt64LittleEndian(offer.Fingerprints.Span[i..]), (int)offer.Origin);
        }
    }

    private void ReturnPages(ControlMessage.PagesWanted wanted)
    {
        if (wanted.BlockIndex >= _shared.Length)
        {
            throw new StreamFormatException(
                0, $"Pages of RAM block {wanted.BlockIndex} are wanted; there are {_shared.Length} blocks.");
        }

        foreach (PageNumber page in wanted.Pages())
        {
            int origin = _queue!.ReturnKnown(wanted.BlockIndex, page);
            if (origin < 0)
            {
                throw new StreamFormatException(
                    0, $"Page {page} of RAM block {wanted.BlockIndex} is wanted but was not sent by its name.");
            }

            _knownPages[origin]--;
            _refused++;
        }

        if (_refused >= RefusedMin && _refused > _knownSent * RefusedShareMax)
        {
            _believes = false;
        }

        int lane = _queue!.LaneOf(wanted.BlockIndex, wanted.Region);
        _asksAnswered[lane]++;
        _barriers[lane] = Math.Min(_barriers[lane], _postcopy ? 1 : 0);
    }
}
