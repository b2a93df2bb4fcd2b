return Godwit.Simulation.Commands.Run(args);
