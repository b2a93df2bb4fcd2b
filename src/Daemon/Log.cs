namespace Godwit.Daemon;

/// <summary>
/// Every line the daemon logs. Event ids are stable: 1xx daemon, 2xx peers, 3xx guests, 4xx migrations.
/// </summary>
internal static partial class Log
{
    [LoggerMessage(100, LogLevel.Information,
        "godwitd {Version} serves host {Host}: control {Socket}, peers {PeerAddress}, lanes port {LanePort}")]
    public static partial void Started(
        ILogger logger, string version, string host, string socket, string peerAddress, int lanePort);

    [LoggerMessage(101, LogLevel.Information, "godwitd stops; {Guests} guests run on")]
    public static partial void Stopping(ILogger logger, int guests);

    [LoggerMessage(102, LogLevel.Information, "QEMU {Version} at {Path}, accelerator {Accelerator}")]
    public static partial void QemuFound(ILogger logger, string version, string path, string accelerator);

    [LoggerMessage(103, LogLevel.Warning, "No usable QEMU, guests cannot start: {Reason}")]
    public static partial void QemuMissing(ILogger logger, string reason);

    [LoggerMessage(110, LogLevel.Error, "{Method} failed unexpectedly")]
    public static partial void CallBroken(ILogger logger, string method, Exception exception);

    [LoggerMessage(111, LogLevel.Information, "{Method} refused: {Code}: {Reason}")]
    public static partial void CallRefused(ILogger logger, string method, string code, string reason);

    [LoggerMessage(200, LogLevel.Warning, "Peer {Remote} refused on {Method}: {Code}: {Reason}")]
    public static partial void PeerRefused(ILogger logger, string remote, string method, string code, string reason);

    [LoggerMessage(201, LogLevel.Warning, "Connection from {Remote} refused: {Code}: {Reason}")]
    public static partial void ConnectionRefused(ILogger logger, string remote, string code, string reason);

    [LoggerMessage(202, LogLevel.Warning, "Join of {Host} from {Remote} refused: {Code}: {Reason}")]
    public static partial void JoinRefused(ILogger logger, string host, string remote, string code, string reason);

    [LoggerMessage(203, LogLevel.Information, "Host {Host} at {Address} joined with certificate {Sha256}")]
    public static partial void HostJoined(ILogger logger, string host, string address, string sha256);

    [LoggerMessage(204, LogLevel.Information,
        "Joined the cluster of {AuthorityHost}, authority {Sha256}, {Hosts} hosts")]
    public static partial void ClusterJoined(ILogger logger, string authorityHost, string sha256, int hosts);

    [LoggerMessage(205, LogLevel.Warning, "Host {Host} was not told of the new member {Member}: {Reason}")]
    public static partial void AnnouncementLost(ILogger logger, string host, string member, string reason);

    [LoggerMessage(206, LogLevel.Information, "Join token made, valid until {Expires:u}, for host '{Host}'")]
    public static partial void TokenMade(ILogger logger, DateTimeOffset expires, string host);

    [LoggerMessage(208, LogLevel.Warning, "Host {Host} could not be asked who is in the cluster: {Code}: {Reason}")]
    public static partial void RefreshLost(ILogger logger, string host, string code, string reason);

    [LoggerMessage(209, LogLevel.Warning, "Host {Host} removed; its certificates are refused, {Sha256} among them")]
    public static partial void HostRemoved(ILogger logger, string host, string sha256);

    [LoggerMessage(210, LogLevel.Warning, "Host {Host} was removed, says {Authority}; its certificates are refused")]
    public static partial void RemovalLearnt(ILogger logger, string host, string authority);

    [LoggerMessage(211, LogLevel.Warning, "Host {Host} was not told that {Removed} is removed: {Reason}")]
    public static partial void RemovalUntold(ILogger logger, string host, string removed, string reason);

    [LoggerMessage(212, LogLevel.Information, "This host's certificate is renewed, until {Expires:u}")]
    public static partial void CertificateRenewed(ILogger logger, DateTimeOffset expires);

    [LoggerMessage(213, LogLevel.Warning,
        "Flood: {Dropped} connections for the role {Role} were dropped before they proved themselves, {Untold} lines "
        + "not logged")]
    public static partial void Flood(ILogger logger, Services.Role role, int dropped, int untold);

    [LoggerMessage(300, LogLevel.Information, "Guest {Guest} created with UUID {Uuid}")]
    public static partial void GuestCreated(ILogger logger, string guest, Guid uuid);

    [LoggerMessage(301, LogLevel.Information, "Guest {Guest} runs as process {ProcessId}")]
    public static partial void GuestStarted(ILogger logger, string guest, int processId);

    [LoggerMessage(302, LogLevel.Information, "Guest {Guest} found again as process {ProcessId}, {State}")]
    public static partial void GuestAdopted(ILogger logger, string guest, int processId, string state);

    [LoggerMessage(303, LogLevel.Warning, "Guest {Guest} is lost: {Detail}")]
    public static partial void GuestLost(ILogger logger, string guest, string detail);

    [LoggerMessage(304, LogLevel.Information, "Guest {Guest} stopped: {How}")]
    public static partial void GuestStopped(ILogger logger, string guest, string how);

    [LoggerMessage(305, LogLevel.Information, "Guest {Guest} removed")]
    public static partial void GuestRemoved(ILogger logger, string guest);

    [LoggerMessage(306, LogLevel.Warning, "Incoming guest {Guest} was never committed; its QEMU is ended")]
    public static partial void IncomingDropped(ILogger logger, string guest);

    [LoggerMessage(307, LogLevel.Warning, "Guest {Guest}: its network port: {Reason}")]
    public static partial void AnnouncementFailed(ILogger logger, string guest, string reason);

    [LoggerMessage(308, LogLevel.Warning, "Guest {Guest} is forgotten, but its files in {Directory} stay: {Reason}")]
    public static partial void FilesLeft(ILogger logger, string guest, string directory, string reason);

    [LoggerMessage(400, LogLevel.Information, "Migration {Id}: {Guest} leaves {From} for {To}")]
    public static partial void MoveStarted(ILogger logger, string id, string guest, string from, string to);

    [LoggerMessage(401, LogLevel.Information, "Migration {Id}: {Guest} arrives from {From}, {Lanes} lanes expected")]
    public static partial void MoveExpected(ILogger logger, string id, string guest, string from, int lanes);

    [LoggerMessage(402, LogLevel.Information,
        "Migration {Id}: {Outcome} after {Seconds:F1} s, {WireBytes} bytes, pause {DowntimeMs:F0} ms; "
        + "{Guest} runs on {Host}")]
    public static partial void MoveEnded(
        ILogger logger, string id, string outcome, double seconds, long wireBytes, double downtimeMs, string guest,
        string host);

    [LoggerMessage(403, LogLevel.Warning, "Migration {Id}: {Code}: {Reason}; {Guest} runs on {Host}")]
    public static partial void MoveFailed(
        ILogger logger, string id, string code, string reason, string guest, string host);

    [LoggerMessage(404, LogLevel.Warning, "Migration {Id}: the incoming guest {Guest} is abandoned: {Reason}")]
    public static partial void MoveAbandoned(ILogger logger, string id, string guest, string reason);

    [LoggerMessage(408, LogLevel.Information, "Migration {Id}: host {Host} asks how it ended; the answer is {Answer}")]
    public static partial void MoveAsked(ILogger logger, string id, string host, string answer);

    [LoggerMessage(409, LogLevel.Warning,
        "Migration {Id}: {Guest} was handed over to {Host}, which has not answered whether it runs there: {Reason}")]
    public static partial void MoveUnanswered(ILogger logger, string id, string guest, string host, string reason);

    [LoggerMessage(410, LogLevel.Information, "Migration {Id}: settled after {Seconds:F1} s as {State}: {Guest}")]
    public static partial void MoveSettled(ILogger logger, string id, double seconds, string state, string guest);

    [LoggerMessage(411, LogLevel.Warning,
        "Migration {Id}: an operator decided that {Guest} runs on {Host}; its other copy is void")]
    public static partial void MoveDecided(ILogger logger, string id, string guest, string host);

    [LoggerMessage(412, LogLevel.Warning,
        "{Guest}: its copy here is void and has been ended: it belongs to host {Host} by epoch {Epoch}")]
    public static partial void GuestFenced(ILogger logger, string guest, string host, long epoch);

    [LoggerMessage(405, LogLevel.Information,
        "Migration {Id}: round {Round}: {Pages} pages, {WireBytes} bytes, {Seconds:F2} s, "
        + "dirty {DirtyBytesPerSecond:F0} B/s")]
    public static partial void Round(
        ILogger logger, string id, int round, long pages, long wireBytes, double seconds, double dirtyBytesPerSecond);

    [LoggerMessage(406, LogLevel.Warning, "Migration {Id}: host {Host} was not told of the outcome: {Reason}")]
    public static partial void ReportLost(ILogger logger, string id, string host, string reason);

    [LoggerMessage(528, LogLevel.Information,
        "Parcel {Id}: {Bytes} bytes hoarded for {Guest}, {Held} were held, {Left} are left to the resume; {Fetched} "
        + "fetched in {Seconds:0.0} s")]
    public static partial void ParcelHoarded(
        ILogger logger, string id, string guest, long bytes, long held, long left, long fetched, double seconds);

    [LoggerMessage(530, LogLevel.Information,
        "Parcel {Id}: {Guest} is expected on host {Host} at {When:u} ({Share:P0})")]
    public static partial void ResumePredicted(
        ILogger logger, string id, string guest, string host, DateTimeOffset when, double share);

    [LoggerMessage(531, LogLevel.Information,
        "Parcel {Id}: host {Host} does not hoard for {Guest}: {Reason}")]
    public static partial void HoardNotAsked(ILogger logger, string id, string guest, string host, string reason);

    [LoggerMessage(532, LogLevel.Warning, "What is known of sleeps of guest {Guest} could not be recorded: {Reason}")]
    public static partial void SleepNotRecorded(ILogger logger, Guid guest, string reason);

    [LoggerMessage(529, LogLevel.Information, "Parcel {Id}: hoarding for {Guest} has ended early: {Reason}")]
    public static partial void ParcelHoardEnded(ILogger logger, string id, string guest, string reason);

    [LoggerMessage(413, LogLevel.Warning, "The memory that {Guest} leaves behind is not kept: {Reason}")]
    public static partial void MemoryNotKept(ILogger logger, string guest, string reason);

    [LoggerMessage(414, LogLevel.Warning, "The images {Images} of inventoryImages cannot be read: {Reason}")]
    public static partial void ImagesUnreadable(ILogger logger, string images, string reason);

    [LoggerMessage(407, LogLevel.Error,
        "Migration {Id}: the change of owner could not be recorded: {Reason}; {Guest} runs on {Host}")]
    public static partial void OwnershipUnrecorded(ILogger logger, string id, string reason, string guest, string host);

    [LoggerMessage(500, LogLevel.Information, "Parcel {Id}: {Guest} is being put into store {Store}")]
    public static partial void ParcelBegun(ILogger logger, string id, string guest, string store);

    [LoggerMessage(501, LogLevel.Information,
        "Parcel {Id}: {Guest} is in store {Store}: {Bytes} bytes written in {Seconds:F1} s, pause {PauseMs:F0} ms")]
    public static partial void ParcelMade(
        ILogger logger, string id, string guest, string store, long bytes, double seconds, double pauseMs);

    [LoggerMessage(502, LogLevel.Information,
        "Parcel {Id}: {Guest} runs here from store {Store} after {Seconds:F2} s: {Fetched} bytes fetched, {Rebuilt} "
        + "rebuilt, {Kept} in place")]
    public static partial void ParcelResumed(
        ILogger logger, string id, string guest, string store, double seconds, long fetched, long rebuilt, long kept);

    [LoggerMessage(508, LogLevel.Information,
        "Parcel {Id}: all memory of {Guest} is here after {Seconds:F2} s more: {Fetched} bytes fetched, it waited for "
        + "{Pages} pages")]
    public static partial void ParcelFilled(
        ILogger logger, string id, string guest, double seconds, long fetched, long pages);

    [LoggerMessage(520, LogLevel.Information,
        "Parcel {Id}: {Guest} runs on and lacks memory; the next godwitd goes on with it")]
    public static partial void ParcelLeft(ILogger logger, string id, string guest);

    [LoggerMessage(521, LogLevel.Information, "Parcel {Id}: {Guest} lacks {Pages} pages, which are brought now")]
    public static partial void ParcelTakenUp(ILogger logger, string id, string guest, long pages);

    [LoggerMessage(522, LogLevel.Warning,
        "Parcel {Id}: {Guest} waits for memory that cannot be brought yet; it is tried again: {Reason}")]
    public static partial void ParcelNotTakenUp(ILogger logger, string id, string guest, string reason);

    [LoggerMessage(526, LogLevel.Information,
        "{Count} parcels of host {Host}, which is being removed, are vouched for in store {Store}")]
    public static partial void ParcelsVouched(ILogger logger, int count, string host, string store);

    [LoggerMessage(527, LogLevel.Warning,
        "Parcels of host {Host}, which is being removed, are not vouched for in store {Store}: {Reason}")]
    public static partial void ParcelsNotVouched(ILogger logger, string host, string store, string reason);

    [LoggerMessage(523, LogLevel.Information,
        "Parcel {Id}: store {Store} could not be told that {Guest} needs it no more: {Reason}")]
    public static partial void ParcelNeedKept(ILogger logger, string id, string guest, string store, string reason);

    [LoggerMessage(524, LogLevel.Warning,
        "Parcel {Id}: {Guest} is taken over from host {Host}, which must not run it any more; epoch {Epoch}")]
    public static partial void ParcelTakenOver(ILogger logger, string id, string guest, string host, long epoch);

    [LoggerMessage(525, LogLevel.Warning,
        "{Guest} may have been taken over by another host; store {Store} is asked again: {Reason}")]
    public static partial void OwnerUnasked(ILogger logger, string guest, string store, string reason);

    [LoggerMessage(509, LogLevel.Information,
        "Parcel {Id}: host {Host} was not told that {Guest} runs here: {Reason}")]
    public static partial void ParcelUntold(ILogger logger, string id, string guest, string host, string reason);

    [LoggerMessage(503, LogLevel.Warning, "Parcel {Id}: {Guest} was not resumed here: {Reason}")]
    public static partial void ParcelReturned(ILogger logger, string id, string guest, string reason);

    [LoggerMessage(533, LogLevel.Warning, "Parcel {Id}: {Guest} sleeps on this host, and only this host can resume it")]
    public static partial void ParcelKept(ILogger logger, string id, string guest);

    [LoggerMessage(504, LogLevel.Warning,
        "Parcel {Id}: whether {Guest} sleeps is not known before store {Store} answers: {Reason}")]
    public static partial void ParcelUnsettled(
        ILogger logger, string id, string guest, string store, string reason);

    [LoggerMessage(505, LogLevel.Information, "Parcel {Id}: settled: {Guest} {State}")]
    public static partial void ParcelSettled(ILogger logger, string id, string guest, string state);

    [LoggerMessage(506, LogLevel.Information, "Parcel {Id} of {Guest} is removed from store {Store}")]
    public static partial void ParcelRemoved(ILogger logger, string id, string guest, string store);

    [LoggerMessage(507, LogLevel.Information,
        "Store {Store}: {Packs} packs removed, {Bytes} bytes freed, {Waiting} sessions waited for")]
    public static partial void StoreCollected(ILogger logger, string store, int packs, long bytes, int waiting);

    [LoggerMessage(413, LogLevel.Error, "Migration {Id}: {State} could not be recorded and is tried again: {Reason}")]
    public static partial void HandOverUnrecorded(ILogger logger, string id, string state, string reason);

    [LoggerMessage(415, LogLevel.Warning, "Rates of all moves together are not kept: {Reason}")]
    public static partial void PoliciesUnusable(ILogger logger, string reason);

    [LoggerMessage(416, LogLevel.Information,
        "Migration {Id}: {Guest} runs on {Host} and lacks memory; bringing it over new lanes")]
    public static partial void RestServed(ILogger logger, string id, string guest, string host);

    [LoggerMessage(417, LogLevel.Error,
        "Migration {Id}: the copy of {Guest} that had the rest of its memory has ended; on {Host} it waits for ever")]
    public static partial void RestLost(ILogger logger, string id, string guest, string host);

    [LoggerMessage(418, LogLevel.Warning,
        "Migration {Id}: {Guest} runs here and lacks memory; host {From} is waited for to bring it")]
    public static partial void ArrivalTakenUp(ILogger logger, string id, string guest, string from);

    [LoggerMessage(419, LogLevel.Error,
        "Migration {Id}: {Guest} lacks memory and cannot be taken up: {Reason}")]
    public static partial void ArrivalNotTakenUp(ILogger logger, string id, string guest, string reason);

    [LoggerMessage(420, LogLevel.Error,
        "Migration {Id}: {Guest} was not put in order at the end of its arrival; restart godwitd")]
    public static partial void ArrivalBroken(ILogger logger, string id, string guest, Exception exception);
}
