using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration;

/// <summary>What the engine wants done; the shell in Host does it, in order.</summary>
public abstract record Effect
{
    /// <summary>Put a message on the control lane.</summary>
    public sealed record Send(ControlMessage Message) : Effect;

    /// <summary>Answer QEMU's PING on its return path.</summary>
    public sealed record AnswerPing(uint Value) : Effect;

    /// <summary>Set QEMU's downtime limit, in milliseconds.</summary>
    public sealed record SetDowntimeLimit(int Milliseconds) : Effect;

    /// <summary>Give QEMU the switchover acknowledgement that it waits for.</summary>
    public sealed record ReleaseSwitchover : Effect;

    /// <summary>Let QEMU take up to so much of the guest's processor time, in percent.</summary>
    public sealed record Throttle(int Percent) : Effect;

    /// <summary>
    /// Wait until no other migration of this host pauses its guest; then <see cref="SourceEngine.TurnGranted"/>.
    /// </summary>
    public sealed record AskForTurn : Effect;

    /// <summary>The turn is not used: others may have it.</summary>
    public sealed record GiveTurnBack : Effect;

    /// <summary>
    /// Compare the memory of shared blocks with what was sent of it, report differences with
    /// <see cref="SourceEngine.PageDiffers"/>, and then <see cref="SourceEngine.MemoryChecked"/>.
    /// </summary>
    public sealed record CheckMemory(IReadOnlyList<RamBlock> Blocks) : Effect;

    /// <summary>
    /// See to it that QEMU keeps the guest paused even if this daemon dies, then report it with
    /// <see cref="SourceEngine.StreamHeld"/>.
    /// </summary>
    public sealed record HoldStream : Effect;

    /// <summary>
    /// Record durably that the destination may run the guest, then report it with
    /// <see cref="SourceEngine.CommitRecorded"/> or <see cref="SourceEngine.CommitNotRecorded"/>.
    /// </summary>
    public sealed record RecordCommit : Effect;

    /// <summary>Record durably that the commit, of which nobody has been told, is void.</summary>
    public sealed record RecordReclaim : Effect;

    /// <summary>Tell the source's QEMU that the destination has everything: it completes and stays stopped.</summary>
    public sealed record ConfirmToQemu : Effect;

    /// <summary>End the source's QEMU migration; QEMU resumes the guest if it had paused it.</summary>
    public sealed record AbandonQemu : Effect;

    /// <summary>A round is over: one log line.</summary>
    public sealed record RoundEnded(RoundReport Round) : Effect;

    // The destination's.

    /// <summary>Give QEMU the stream's head: prologue and footer.</summary>
    public sealed record WritePrologue(ReadOnlyMemory<byte> Verbatim) : Effect;

    /// <summary>Give QEMU a command of the stream.</summary>
    public sealed record WriteCommand(ushort Number, ReadOnlyMemory<byte> Payload) : Effect;

    /// <summary>Give QEMU the empty section that ends RAM.</summary>
    public sealed record WriteEnd : Effect;

    /// <summary>Take the contents of pages away that are to come once more, or come for the first time.</summary>
    public sealed record ForgetMissing : Effect;

    /// <summary>
    /// From here on pages reach QEMU by its stream and each once: what was written before came before the guest.
    /// </summary>
    public sealed record BeginDelivery : Effect;

    /// <summary>Give QEMU a page of zeros of a block that the source did not count among the missing.</summary>
    public sealed record WriteZeroPage(int BlockIndex, PageNumber Page) : Effect;

    /// <summary>Give the lanes up; the source will ask for new ones.</summary>
    public sealed record CloseLanes(string Because) : Effect;

    /// <summary>Give QEMU the end of a postcopy stream.</summary>
    public sealed record WriteEndOfPostcopy : Effect;

    /// <summary>Give QEMU device state.</summary>
    public sealed record WriteDeviceState(ReadOnlyMemory<byte> Bytes) : Effect;

    /// <summary>
    /// Record durably that the guest may have run here from now on, then report it with
    /// <see cref="DestinationEngine.ResumingRecorded"/> or <see cref="DestinationEngine.ResumingNotRecorded"/>.
    /// </summary>
    public sealed record RecordResuming : Effect;

    /// <summary>
    /// Let the guest run and announce it, then report it with <see cref="DestinationEngine.GuestRunning"/>, or with
    /// <see cref="DestinationEngine.RunRefused"/> if QEMU has said that it does not.
    /// </summary>
    public sealed record RunGuest : Effect;

    /// <summary>
    /// Record durably that the guest has not run here and never will by this migration, then report it with
    /// <see cref="DestinationEngine.RefusalRecorded"/>.
    /// </summary>
    public sealed record RecordRefusal : Effect;

    /// <summary>The migration has ended; the snapshot says how.</summary>
    public sealed record End : Effect;
}
