"""Super Mario Bros for Gymnasium, on two emulators; start reading at `mario.env`."""
