namespace Godwit.Daemon.Services;

/// <summary>What a caller is to this daemon, by the door it came through.</summary>
internal enum Role
{
    /// <summary>The control socket: everything.</summary>
    Operator,

    /// <summary>The viewers' socket: everything can be seen, nothing changed.</summary>
    Viewer,

    /// <summary>The peer port: what members of the cluster ask of each other, if its certificate says it is one.</summary>
    Host,
}
