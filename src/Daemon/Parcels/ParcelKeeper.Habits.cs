using Godwit.Api.V1;
using Godwit.ChunkStore.Parcels;
using Godwit.Daemon.Guests;
using Godwit.Host.Inventory;
using Godwit.Host.Registry;
using Godwit.Migration;
using Godwit.Migration.Habits;

namespace Godwit.Daemon.Parcels;

// Where a guest is likely to be resumed, and what is done about it.
internal sealed partial class ParcelKeeper
{
    private static readonly TimeSpan HoardAskedEvery = TimeSpan.FromMinutes(1);

    /// <summary>Predicts where and when a guest is resumed, from what all members know.</summary>
    public async Task<ResumePrediction> PredictAsync(string name, CancellationToken cancellationToken)
    {
        var guest = guests.Find(name);
        var (known, notAsked) = await sleeps.GatherAsync(guest.Record.Uuid, cancellationToken);
        var isAsleep = guest.Record.Parcel is { Stage: ParcelStage.Asleep };
        var sleep = isAsleep ? known.FirstOrDefault(one => one.Parcel == guest.Record.Parcel!.Id) : null;
        var (on, at) = sleep is null ? (guest.Record.Host, clock.GetUtcNow()) : (sleep.SuspendedOn, sleep.Suspended);
        var answer = new ResumePrediction
        {
            Guest = guest.Record.Name,
            GuestUuid = guest.Record.Uuid.ToString(),
            Asleep = isAsleep,
            SuspendedOn = on,
            SuspendedUnixMs = at.ToUnixTimeMilliseconds(),
        };
        if (Predict(known, on, at) is { } prediction)
        {
            answer.Host = prediction.Host;
            answer.ResumedUnixMs = prediction.Resumed.ToUnixTimeMilliseconds();
            answer.Share = prediction.Share;
            answer.Evidence.AddRange(prediction.Evidence.Select(one => new Api.V1.HostEvidence
            {
                Host = one.Host, Resumes = (uint)one.Resumes, Alike = (uint)one.Alike, Weight = one.Weight,
                Share = one.Share,
            }));
        }

        var judged = known.Where(one => one.PredictedHost.Length > 0 && one.ResumedOn.Length > 0).ToList();
        answer.Predicted = (uint)judged.Count;
        answer.PredictedRight = (uint)judged.Count(one => one.PredictedHost == one.ResumedOn);
        answer.HoardedBytes = (ulong)known.Sum(one => one.HoardedBytes ?? 0);
        answer.UsedBytes = (ulong)known.Sum(one => one.UsedBytes ?? 0);
        answer.Sleeps.AddRange(known.Select(SleepBook.ToApi));
        answer.NotAsked.AddRange(notAsked);
        return answer;
    }

    // Habits are of the hour that people see on the clock.
    private ExpectedResume? Predict(
        IReadOnlyList<SleepRecord> known, string on, DateTimeOffset at) => ResumeHabits.Predict(
        [
            .. known.Where(one => one is { ResumedOn.Length: > 0, Resumed: not null })
                .Select(one => new PastSleep(one.SuspendedOn, one.Suspended, one.ResumedOn, one.Resumed!.Value)),
        ],
        on, TimeZoneInfo.ConvertTime(at, clock.LocalTimeZone));

    /// <summary>The guest has a new parcel: where it is expected, what it needs is fetched ahead.</summary>
    private async Task ExpectAsync(LocalGuest guest, SleepRecord sleep, bool isAsleep)
    {
        if (isAsleep)
        {
            await sleeps.NoteAsync(sleep);
        }

        var (known, _) = await sleeps.GatherAsync(sleep.Guest, _shutdown.Token);
        if (Predict(known, sleep.SuspendedOn, sleep.Suspended) is not { } prediction
            || prediction.Share < ResumeHabits.ShareWorthwhile)
        {
            return;
        }

        Log.ResumePredicted(
            logger, sleep.Parcel, guest.Record.Name, prediction.Host, prediction.Resumed, prediction.Share);
        if (isAsleep)
        {
            await sleeps.NoteAsync(sleep with
            {
                PredictedHost = prediction.Host, PredictedFor = prediction.Resumed,
            });
        }

        // Here it has left its memory behind.
        if (prediction.Host != settings.HostName)
        {
            await AskToHoardAsync(guest, sleep.Parcel, prediction.Host);
        }
    }

    // A host that is switched off at night is asked again until it answers, or the guest has gone on.
    private async Task AskToHoardAsync(LocalGuest guest, string parcel, string name)
    {
        while (!_shutdown.IsCancellationRequested && guest.Record.Parcel?.Id == parcel
            && guest.Record.Host == settings.HostName)
        {
            try
            {
                var host = await membership.FindAsync(name, _shutdown.Token);
                await links.FollowAsync(
                    host,
                    (peer, options) => peer.HoardHere(
                        new HoardGuestRequest { Reference = parcel, ByItself = true }, options),
                    _ => Task.CompletedTask, _shutdown.Token);
                return;
            }
            catch (GodwitException exception)
            {
                Log.HoardNotAsked(logger, parcel, guest.Record.Name, name, exception.Message);
                var mayPass = exception.Code == "host-unreachable" || exception.Code == "store-unreachable"
                    || exception.Code == "store-silent";
                if (!mayPass)
                {
                    return;
                }
            }

            await Task.Delay(HoardAskedEvery, clock, _shutdown.Token)
                .ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    // A daemon that comes back asks again for the guests that sleep here.
    private async Task ExpectAgainAsync(LocalGuest guest)
    {
        var note = guest.Record.Parcel!;
        var sleep = (await sleeps.ListAsync(guest.Record.Uuid, _shutdown.Token))
            .FirstOrDefault(one => one.Parcel == note.Id);
        if (sleep is { PredictedHost.Length: > 0 } && sleep.PredictedHost != settings.HostName)
        {
            await AskToHoardAsync(guest, note.Id, sleep.PredictedHost);
        }
    }

    /// <summary>A sleep has ended here.</summary>
    /// <param name="known">What the resume was served from; null if nothing was at hand.</param>
    private Task NoteResumedAsync(SleepRecord sleep, DateTimeOffset resumed, GuestInventory? known)
    {
        var (bytes, used) = known?.Hoarded ?? default;
        return sleeps.NoteAsync(sleep with
        {
            ResumedOn = settings.HostName, Resumed = resumed, HoardedBytes = bytes, UsedBytes = used,
        });
    }

    // What a guest that ran before its memory had come used of its hoard is known at the end. A daemon that takes it up
    // finds the hoard gone, and says nothing.
    private async Task NoteHoardUsedAsync(Guid guest, ParcelNote note, GuestInventory? known)
    {
        if (known is { Hoarded: { Bytes: > 0 } hoarded }
            && (await sleeps.ListAsync(guest, CancellationToken.None)).FirstOrDefault(
                one => one.Parcel == note.Id) is { } sleep)
        {
            await sleeps.NoteAsync(sleep with { HoardedBytes = hoarded.Bytes, UsedBytes = hoarded.UsedBytes });
        }
    }

    // What the store says of a guest that slept here.
    private async Task NoteResumedElsewhereAsync(GuestRecord record, ParcelNote note, ParcelClaim claim)
    {
        if (note.Stage == ParcelStage.Asleep && claim.Parcel == note.Id
            && (await sleeps.ListAsync(record.Uuid, CancellationToken.None)).FirstOrDefault(
                one => one.Parcel == note.Id) is { } sleep)
        {
            await sleeps.NoteAsync(sleep with
            {
                ResumedOn = claim.Host, Resumed = DateTimeOffset.FromUnixTimeMilliseconds(claim.ClaimedUnixMs),
            });
        }
    }

    /// <summary>Forgets what is known of a guest's sleeps.</summary>
    public Task ForgetSleepsAsync(Guid guest) => sleeps.ForgetAsync(guest);
}
