namespace Godwit.Daemon.Services;

/// <summary>What a caller is to this daemon, by the door it came through.</summary>
internal enum Role
{
    /// <summary>The control socket: everything.</summary>
    Operator,

    /// <summary>The viewers' socket: everything can be seen, nothing changed.</summary>
    Viewer,

    /// <summary>The peer port: what members ask of each other, if a certificate says that it is one.</summary>
    Host,
}
