using System.Buffers;
using System.Text.Json;
using System.Text.Json.Serialization;
using Godwit.ChunkStore.Storage;

namespace Godwit.ChunkStore.Parcels;

/// <summary>Why a parcel was made.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<ParcelKind>))]
public enum ParcelKind
{
    /// <summary>The guest was put to sleep: whoever resumes it owns it.</summary>
    Suspend,
    /// <summary>The guest went on: the parcel is a state to go back to, or to fork.</summary>
    Checkpoint,
}

/// <summary>One memory, disk or blob of a parcel.</summary>
/// <param name="Name">Of the RAM block; path of the disk image; <c>state</c>.</param>
/// <param name="Bytes">Its length; the last page is filled up with zeros.</param>
/// <param name="Root">Of its tree, 64 hexadecimal digits; all zeros for a content of zeros.</param>
public sealed record ParcelPart(string Name, long Bytes, string Root)
{
    /// <summary>Pages of its tree.</summary>
    [JsonIgnore]
    public long Pages => (Bytes + 4095) / 4096;

    /// <summary>The root as an id.</summary>
    [JsonIgnore]
    public ChunkId RootId => ChunkId.TryParse(Root, out ChunkId id)
        ? id : throw new StoreFormatException($"part {Name}", "its root is no id");
}

/// <summary>A guest at one instant: everything to run it again; docs/formats/chunk-store.md.</summary>
public sealed record ParcelManifest
{
    private static readonly SearchValues<char> NameCharacters =
        SearchValues.Create("abcdefghijklmnopqrstuvwxyz0123456789-");

    /// <summary>Version of the manifest this build writes and reads.</summary>
    public const int FormatVersion = 1;

    /// <summary>Bytes of the longest part.</summary>
    public const long PartBytesMax = 1L << 48;

    /// <summary>The highest epoch; one more still has a name of 12 digits.</summary>
    public const long EpochMax = 999_999_999_998;

    /// <summary>Parts of one kind.</summary>
    public const int PartsMax = 1024;

    public required int Format { get; init; }

    /// <summary>Of the parcel; sorts by time.</summary>
    public required string Id { get; init; }

    public required ParcelKind Kind { get; init; }

    /// <summary>The guest's UUID.</summary>
    public required string Guest { get; init; }

    /// <summary>The guest's name.</summary>
    public required string Name { get; init; }

    /// <summary>Where it was made.</summary>
    public required string Host { get; init; }

    /// <summary>Id of the store that it was made in: whoever resumes the guest claims it there.</summary>
    public required string Home { get; init; }

    /// <summary>Of the guest's owner; a resume raises it by one.</summary>
    public required long Epoch { get; init; }

    /// <summary>When the guest stood still.</summary>
    public required long CreatedUnixMs { get; init; }

    /// <summary>The parcel that the guest came from or was last kept in; empty for the first one.</summary>
    public string Parent { get; init; } = "";

    /// <summary>The machine, as the host describes it.</summary>
    public required JsonElement Contract { get; init; }

    /// <summary>Version of the QEMU that ran it.</summary>
    public required string Qemu { get; init; }

    /// <summary>Features of the contract's CPU model that the guest has never had.</summary>
    public IReadOnlyList<string> CpuFeaturesMissing { get; init; } = [];

    /// <summary>The head and the tail of QEMU's stream, one behind the other.</summary>
    public required ParcelPart State { get; init; }

    /// <summary>Bytes of the head in <see cref="State"/>.</summary>
    public required int StateHeadBytes { get; init; }

    /// <summary>RAM blocks; those that are not the guest's main memory travel in QEMU's stream.</summary>
    public required IReadOnlyList<ParcelPart> Memory { get; init; }

    /// <summary>Disk images, what they are based on included.</summary>
    public required IReadOnlyList<ParcelPart> Disks { get; init; }

    /// <summary>Pages that the guest is likely to touch first (<see cref="WakeSet"/>); null if none is known.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ParcelPart? Wake { get; init; }

    /// <summary>How long the guest stood still, milliseconds; 0 if it has not gone on.</summary>
    public double PauseMs { get; init; }

    /// <summary>Bytes that the parcel brought into the store.</summary>
    public long BytesWritten { get; init; }

    /// <summary>Every tree of it.</summary>
    [JsonIgnore]
    public IEnumerable<ParcelPart> Parts =>
        [State, .. Wake is null ? [] : (ParcelPart[])[Wake], .. Memory, .. Disks];

    /// <summary>Null, or what no build writes like this.</summary>
    internal string? Refusal() =>
        Format != FormatVersion ? $"it is of version {Format}; this build reads version {FormatVersion}"
        : !IsName(Id) || !Guid.TryParse(Guest, out _) ? "it names no parcel of a guest"
        : Name is not { Length: > 0 and < 256 } || Host is not { Length: > 0 and < 256 }
            || Home is not { Length: > 0 and < 256 } ? "it has no guest, host or home"
        : State is null || Memory is null || Disks is null || Qemu is null || Parent is null
            || CpuFeaturesMissing is null ? "a part is missing"
        : Memory.Count is 0 or > PartsMax || Disks.Count > PartsMax ? "it has too many parts, or too few"
        : Parts.Any(part => part?.Name is null || part.Root is null || !ChunkId.TryParse(part.Root, out _)
            || part.Bytes is < 0 or > PartBytesMax) ? "a part of it is malformed"
        : StateHeadBytes < 0 || StateHeadBytes > State.Bytes || Epoch is < 0 or > EpochMax ? "its numbers make no sense"
        : null;

    internal static bool IsName(string? text) => text is { Length: > 0 and <= 64 }
        && !text.AsSpan().ContainsAnyExcept(NameCharacters);
}

/// <summary>A host has taken a guest over: nobody else resumes it from the same parcel.</summary>
/// <param name="Parcel">That it was resumed from.</param>
/// <param name="Host">The guest's owner from then on.</param>
/// <param name="ClaimedUnixMs">When.</param>
/// <param name="TakenFrom">The host whose guest it was, if an operator took it over; otherwise empty.</param>
public sealed record ParcelClaim(string Parcel, string Host, long ClaimedUnixMs, string TakenFrom = "");
